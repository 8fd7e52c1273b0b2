function activationChart(histogram, width) {
  const used = histogram.flatMap((count, bin) => (count ? [bin] : []));
  const [first, last] = [used[0], used[used.length - 1] + 1];
  const bounds = index.activation_edges;
  const counts = histogram.slice(first, last);
  const highest = Math.max(...counts);
  const [low, high] = [bounds[first], bounds[last]];
  const ticks = low > 0 ? roundTicks(low, high) : [];
  if (ticks.length < 2) {
    ticks.splice(0, 2, { share: 0, text: formatNumber(low) }, { share: 1, text: formatNumber(high) });
  }
  const { chart, step, floor } = barChart({
    counts,
    width,
    height: 170,
    top: 18,
    bottom: 32,
    ticks,
    title: "Tokens by activation of this feature, on a logarithmic scale",
    isOn: () => true,
  });
  counts.forEach((count, bin) => {
    const range = `${formatNumber(bounds[first + bin])} to ${formatNumber(bounds[first + bin + 1])}`;
    const note = shape("title", {}, `activation ${range}: ${formatCount(count)} tokens`);
    chart.append(shape("rect", { class: "hit", x: bin * step, width: step, y: 0, height: floor }, note));
  });
  chart.append(shape("line", { class: "axis", x1: 0, x2: width, y1: 17.5, y2: 17.5 }));
  chart.append(shape("text", { x: 0, y: 12 }, `${formatCount(highest)} ${highest === 1 ? "token" : "tokens"}`));
  chart.append(shape("text", { x: width / 2, y: 166, "text-anchor": "middle" }, "activation, log scale"));
  return chart;
}

/* Details: a block is decompressed when one of its features is first opened */

const blocks = new Map();

function openBlock(number) {
  if (!blocks.has(number)) blocks.set(number, decodeBlock(number));
  return blocks.get(number);
}

async function decodeBlock(number) {
  if (document.readyState === "loading") {
    await new Promise((done) => document.addEventListener("DOMContentLoaded", done, { once: true }));
  }
  const holder = byId(`block-${number}`);
  const bytes = Uint8Array.from(atob(holder.textContent), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const details = JSON.parse(await new Response(stream).text());
  holder.remove(); // its text is not needed again
  return details;
}

async function open(row, { focus = false } = {}) {
  state.selected = row;
  showOverview(false);
  document.body.classList.add("feature-open");
  showRow(row);
  drawRows();
  writeHash(index.feature[row]);
  let details;
  try {
    details = await openBlock(Math.floor(row / index.block_features));
  } catch (error) {
    byId("detail").replaceChildren(
      element("p", { class: "message" }, `The details of this feature cannot be read in this browser (${error.message}).`),
    );
    return;
  }
  if (state.selected !== row) return; // another one was opened meanwhile
  drawDetail(row, details[row % index.block_features]);
  if (focus) byId("detail").focus({ preventScroll: true });
  const top = byId("main").getBoundingClientRect().top;
  if (phone.matches) window.scrollTo(0, 0);
  else if (top < 0) window.scrollBy(0, top);
}

function close() {
  document.body.classList.remove("feature-open");
  byId("overview").hidden = true;
  byId("detail").hidden = false;
  drawDensity();
  drawRows();
  byId("rows").focus();
}

function turn(step) {
  if (!state.order.length) return;
  const place = state.order.indexOf(state.selected);
  const target = place < 0 ? 0 : Math.min(Math.max(place + step, 0), state.order.length - 1);
  if (target !== place) open(state.order[target]);
}

function drawTurns() {
  const place = state.order.indexOf(state.selected);
  for (const button of byId("detail").querySelectorAll(".turn button")) {
    const target = place < 0 ? 0 : place + Number(button.dataset.step);
    button.disabled = target < 0 || target >= state.order.length;
  }
}

function drawDetail(row, detail) {
  const heading = element(
    "header",
    {},
    element("button", { type: "button", class: "button back" }, "← List"),
    element("h2", {}, `Feature ${index.feature[row]}`),
    ...badge(row),
    ...(index.label?.[row] ? [element("p", { class: "label" }, ...phrase(index.label[row]))] : []),
    element(
      "div",
      { class: "turn" },
      element("button", { type: "button", class: "button", "data-step": -1, "aria-label": "Previous feature" }, "← Prev"),
      element("button", { type: "button", class: "button", "data-step": 1, "aria-label": "Next feature" }, "Next →"),
    ),
  );
  const chart = element("div", { class: "chart" });
  const panels = element(
    "div",
    { class: "panels" },
    element("section", {}, element("h3", {}, "Activations"), chart),
    logitPanel("Promoted tokens", detail.promoted, largestLogit(detail), false),
    logitPanel("Suppressed tokens", detail.suppressed, largestLogit(detail), true),
  );
  byId("detail").setAttribute("aria-label", `Feature ${index.feature[row]}`);
  byId("detail").replaceChildren(
    heading,
    ...flagNote(row),
    statList(row, detail),
    ...explanationSection(row, detail),
    ...effectSection(row, detail),
    panels,
    ...surroundingPanels(detail),
    ...contextSections(row, detail),
  );
  drawActivations = () => {
    const drawn = detail.histogram.some((count) => count > 0)
      ? activationChart(detail.histogram, chart.clientWidth || 360)
      : element("p", {}, "This feature never fired.");
    chart.replaceChildren(drawn);
  };
  drawActivations();
  drawTurns();
}

function statList(row, detail) {
  const density = index.density[row];
  const stats = [
    ["Density", formatShare(density)],
    ["Fires on", index.count[row] ? `${formatCount(index.count[row])} tokens, 1 in ${formatCount(Math.round(1 / density))}` : "no token"],
    ["Mean", formatNumber(index.mean[row])],
    ["Max", formatNumber(index.max[row])],
    ...(index.count[row] ? [["Worth", formatScore(index.worth[row])]] : []),
    ...furtherStats(detail),
  ];
  const items = stats.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value)));
  return element("dl", { class: "stats" }, ...items);
}

function largestLogit(detail) {
  return Math.max(...[...detail.promoted, ...detail.suppressed].map(([, logit]) => Math.abs(logit)), 1e-9);
}

function logitPanel(title, pairs, largest, down) {
  const items = pairs.map(([token, logit]) => {
    return element(
      "li",
      {},
      element("span", { class: "text" }, chip(token)),
      bar(Math.abs(logit) / largest),
      element("span", { class: "value" }, logit === null ? "–" : logit.toFixed(2)),
    );
  });
  const content = items.length
    ? element("ol", { class: down ? "logits down" : "logits" }, ...items)
    : element("p", {}, "No logit lens was taken for this subject and hook point.");
  const hint = `Output tokens whose logits the decoder direction of this feature ${down ? "lowers" : "raises"} most`;
  return element("section", {}, element("h3", { title: hint }, title), content);
}
