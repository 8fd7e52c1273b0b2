"use strict";
(() => {
  const ROW_HEIGHT_PX = 48; // as in the style sheet
  const ROWS_AROUND = 8; // drawn above and below what is visible
  const PAGE_ROWS = 10;
  const TICK_LABEL_PX = 48; // room that a label below a chart takes
  const CHARACTER_PX = 6.5; // of such a label
  const LONGEST_RUN = 3; // spaces drawn one by one in the list; longer runs are counted
  const SVG = "http://www.w3.org/2000/svg";
  const COLUMNS = [
    { key: "feature", label: "Feature", descending: false },
    { key: "density", label: "Density", descending: true },
    { key: "mean", label: "Mean", descending: true },
    { key: "max", label: "Max", descending: true },
    { key: "count", label: "Tokens", descending: true },
  ];

  const byId = (id) => document.getElementById(id);
  const index = JSON.parse(byId("index").textContent);
  const numRows = index.feature.length;
  const haystacks = index.feature.map((_, row) =>
    [...index.peaks[row], ...index.promoted[row]].join("\u0001").toLowerCase(),
  );
  const rowOfFeature = new Map(index.feature.map((feature, row) => [feature, row]));
  const phone = window.matchMedia("(max-width: 760px)");

  const edges = index.density_histogram.edges; // log10 of density
  const numBins = Math.max(edges.length - 1, 0);
  let drawActivations = () => {}; // draws the chart of the open feature to the width it has by now
  const state = { sort: "feature", descending: false, low: 0, high: numBins, order: [], selected: -1 };

  /* Building blocks. Text from data is only ever set as text, never parsed as markup. */

  function element(tag, attributes = {}, ...children) {
    return filled(document.createElement(tag), attributes, children);
  }

  function shape(tag, attributes = {}, ...children) {
    return filled(document.createElementNS(SVG, tag), attributes, children);
  }

  function filled(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== null) node.setAttribute(name, value);
    }
    node.append(...children);
    return node;
  }

  /** Three significant digits; `short` drops the zeros at the end. */
  function formatNumber(value, { short = false } = {}) {
    if (value === null || value === undefined) return "–";
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size >= 1e5 || size < 1e-3) return value.toExponential(short ? 0 : 2);
    if (size >= 1000) return value.toLocaleString("en", { maximumFractionDigits: 0 });
    return value.toLocaleString("en", { minimumSignificantDigits: short ? 1 : 3, maximumSignificantDigits: 3 });
  }

  function formatCount(value) {
    return value.toLocaleString("en");
  }

  function formatShare(share) {
    if (!share) return "0%";
    const percent = 100 * share;
    if (percent < 1e-5) return `${percent.toExponential(0)}%`;
    return `${percent.toLocaleString("en", { maximumSignificantDigits: 2 })}%`;
  }

  const SIGNS = new Map([["\n", "↵"], ["\r", "␍"], ["\t", "⇥"]]);

  function signOf(character, dotSpaces) {
    if (SIGNS.has(character)) return SIGNS.get(character);
    if (character === " " && dotSpaces) return "·";
    // Invisible characters, and those that would change the direction of the text around them.
    if (/[\u0000-\u001f\u007f-\u009f\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]/.test(character)) {
      return `‹${character.codePointAt(0).toString(16).padStart(4, "0")}›`;
    }
    return null;
  }

  /** The text of a token with signs for what would not be seen; lines break only where `next`, what follows, is given. */
  function tokenText(text, { dotSpaces, next = null }) {
    if (text === "") return [element("span", { class: "mark" }, "∅")];
    const nodes = [];
    const characters = [...text];
    characters.forEach((character, place) => {
      const sign = signOf(character, dotSpaces);
      nodes.push(sign === null ? character : element("span", { class: "mark" }, sign));
      const following = place + 1 < characters.length ? characters[place + 1] : next;
      if (next === null) return;
      if (character === "\n" && following && following !== "\n") nodes.push("\n");
      if (character === "\t") nodes.push("\t");
    });
    return nodes;
  }

  function chip(text) {
    const parts = text.split(/( {2,})/).map((part) => {
      const run = part.length > LONGEST_RUN && part.trim() === "" && part[0] === " ";
      return run ? [element("span", { class: "mark" }, `·×${part.length}`)] : part && tokenText(part, { dotSpaces: true });
    });
    return element("span", { class: "chip" }, ...(text ? parts.filter(Boolean).flat() : tokenText(text, {})));
  }

  /* Filtering and sorting */

  function filterFromControls() {
    const query = byId("search").value.toLowerCase();
    return {
      query: query.trim() === "" ? "" : query,
      number: /^\s*#?\d+\s*$/.test(query) ? query.trim().replace("#", "") : null,
      hideDead: byId("hide-dead").checked,
      // At the ends of the scale nothing is cut off.
      low: state.low > 0 ? 10 ** edges[state.low] : -Infinity,
      high: state.high < numBins ? 10 ** edges[state.high] : Infinity,
    };
  }

  function passes(row, filter) {
    if (filter.hideDead && index.count[row] === 0) return false;
    if (index.density[row] < filter.low || index.density[row] > filter.high) return false;
    if (filter.query === "") return true;
    if (filter.number !== null && String(index.feature[row]).startsWith(filter.number)) return true;
    return haystacks[row].includes(filter.query);
  }

  function refresh() {
    const filter = filterFromControls();
    const order = [];
    for (let row = 0; row < numRows; row++) if (passes(row, filter)) order.push(row);
    const column = index[state.sort];
    const sign = state.descending ? -1 : 1;
    order.sort((a, b) => sign * ((column[a] ?? -1) - (column[b] ?? -1)) || a - b);
    state.order = order;
    byId("shown").textContent = `${formatCount(order.length)} of ${formatCount(numRows)} features`;
    byId("clear").hidden = filter.query === "" && state.low === 0 && state.high === numBins;
    byId("tall").style.height = `${order.length * ROW_HEIGHT_PX}px`;
    byId("rows").scrollTop = 0;
    drawRows();
    drawTurns();
  }

  function clearFilters() {
    byId("search").value = "";
    byId("low").value = 0;
    byId("high").value = numBins;
    readRange();
  }

  /* The list: only the rows in view are in the document */

  function drawRows() {
    const rows = byId("rows");
    const first = Math.max(0, Math.floor(rows.scrollTop / ROW_HEIGHT_PX) - ROWS_AROUND);
    const last = Math.min(
      state.order.length,
      Math.ceil((rows.scrollTop + rows.clientHeight) / ROW_HEIGHT_PX) + ROWS_AROUND,
    );
    const drawn = [];
    for (let place = first; place < last; place++) drawn.push(listRow(state.order[place], place));
    byId("window").style.transform = `translateY(${first * ROW_HEIGHT_PX}px)`;
    byId("window").replaceChildren(...drawn);
    const place = state.order.indexOf(state.selected);
    if (place >= first && place < last) rows.setAttribute("aria-activedescendant", `row-${state.selected}`);
    else rows.removeAttribute("aria-activedescendant");
    rows.parentElement.style.setProperty("--scrollbar", `${rows.offsetWidth - rows.clientWidth}px`);
  }

  function listRow(row, place) {
    const values = [formatShare(index.density[row]), formatNumber(index.mean[row]), formatNumber(index.max[row])];
    return element(
      "div",
      {
        class: "row",
        role: "option",
        id: `row-${row}`,
        "data-row": row,
        "aria-selected": row === state.selected,
        "aria-posinset": place + 1,
        "aria-setsize": state.order.length,
      },
      element("span", { class: "number" }, String(index.feature[row])),
      element("span", { class: "peaks" }, ...rowLabel(row)),
      ...values.map((value) => element("span", { class: "value" }, value)),
      element("span", { class: "value" }, formatCount(index.count[row])),
    );
  }

  /** The tokens it peaks on; where the search met only tokens that it promotes, those too. */
  function rowLabel(row) {
    if (index.count[row] === 0) return [element("span", { class: "aside-text" }, "never fired")];
    const { query, number } = filterFromControls();
    const meets = (token) => query !== "" && number === null && token.toLowerCase().includes(query);
    const chips = index.peaks[row].map(chip);
    if (index.peaks[row].some(meets)) return chips;
    const promoted = index.promoted[row].filter(meets);
    if (!promoted.length) return chips;
    return [...chips.slice(0, 2), element("span", { class: "aside-text" }, " promotes "), ...promoted.map(chip)];
  }

  function drawColumns() {
    const buttons = COLUMNS.map(({ key, label }) => {
      const sorted = key === state.sort;
      const arrow = sorted ? (state.descending ? " ↓" : " ↑") : "";
      const direction = sorted ? (state.descending ? ", falling" : ", rising") : "";
      return element(
        "button",
        { type: "button", "data-key": key, "aria-pressed": sorted, "aria-label": `${label}${direction}` },
        `${label}${arrow}`,
      );
    });
    byId("columns").replaceChildren(...buttons);
  }

  function sortBy(key) {
    const column = COLUMNS.find((candidate) => candidate.key === key);
    state.descending = state.sort === key ? !state.descending : column.descending;
    state.sort = key;
    drawColumns();
    byId("columns").querySelector(`[data-key="${key}"]`).focus();
    refresh();
  }

  function showRow(row) {
    const rows = byId("rows");
    const top = state.order.indexOf(row) * ROW_HEIGHT_PX;
    if (top < 0) return;
    // The list may reach below the window: what counts is the part of it that is on screen.
    const onScreen = window.innerHeight - rows.getBoundingClientRect().top;
    const height = Math.min(rows.clientHeight, Math.max(onScreen, 2 * ROW_HEIGHT_PX));
    const above = rows.scrollTop - top;
    const below = top + ROW_HEIGHT_PX - (rows.scrollTop + height);
    if (Math.max(above, below) > height) rows.scrollTop = top - height / 2;
    else if (above > 0) rows.scrollTop -= above;
    else if (below > 0) rows.scrollTop += below;
  }

  /* Charts */

  /** Bars of equal width above a line with ticks; `top` and `bottom` are the margins, in pixels. */
  function barChart({ counts, width, height, top, bottom, ticks, title, isOn }) {
    const highest = Math.max(...counts, 1);
    const step = width / counts.length;
    const gap = step > 5 ? 1 : 0;
    const chart = shape("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
    const floor = height - bottom;
    counts.forEach((count, bin) => {
      const size = count ? Math.max((count / highest) * (floor - top), 1) : 0;
      const place = { x: bin * step, width: Math.max(step - gap, 0.5) };
      chart.append(shape("rect", { class: isOn(bin) ? "bar" : "bar off", ...place, y: floor - size, height: size }));
    });
    chart.append(shape("line", { class: "axis", x1: 0, x2: width, y1: floor + 0.5, y2: floor + 0.5 }));
    for (const { share, text } of ticks) {
      const x = share * width;
      const half = (text.length * CHARACTER_PX) / 2;
      const anchor = x < half ? "start" : x > width - half ? "end" : "middle";
      const textX = { start: 0, middle: x, end: width }[anchor];
      chart.append(shape("line", { class: "axis", x1: x, x2: x, y1: floor, y2: floor + 3 }));
      chart.append(shape("text", { x: textX, y: floor + 13, "text-anchor": anchor }, text));
    }
    return { chart, step, floor };
  }

  function drawDensity() {
    const holder = byId("density-chart");
    if (!numBins) {
      holder.replaceChildren("No feature fired.");
      return;
    }
    const width = holder.clientWidth || 368;
    const [low, high] = [edges[0], edges[numBins]];
    const decades = Math.ceil(TICK_LABEL_PX / (width / (high - low))); // from one label to the next
    const ticks = [];
    for (let power = Math.ceil(low); power <= high; power += decades) {
      ticks.push({ share: (power - low) / (high - low), text: formatShare(10 ** power) });
    }
    const { chart } = barChart({
      counts: index.density_histogram.counts,
      width,
      height: 74,
      top: 4,
      bottom: 16,
      ticks,
      title: "Features by density, on a logarithmic scale",
      isOn: (bin) => bin >= state.low && bin < state.high,
    });
    holder.replaceChildren(chart);
  }

  function readRange() {
    state.low = Math.min(Number(byId("low").value), numBins - 1);
    state.high = Math.max(Number(byId("high").value), state.low + 1);
    byId("low").value = state.low;
    byId("high").value = state.high;
    const [low, high] = [formatShare(10 ** edges[state.low]), formatShare(10 ** edges[state.high])];
    byId("low").setAttribute("aria-valuetext", low);
    byId("high").setAttribute("aria-valuetext", high);
    const all = state.low === 0 && state.high === numBins;
    byId("range-text").textContent = all ? "share of tokens" : `${low} to ${high} of tokens`;
    drawDensity();
    refresh();
  }

  /** Round values (1, 2, 5 times a power of ten) on a logarithmic axis, at most about eight of them. */
  function roundTicks(low, high) {
    const decades = Math.log10(high / low);
    const steps = decades < 2.5 ? [1, 2, 5] : [1];
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
      for (const step of steps) {
        const value = Number(`${step}e${power}`);
        const share = Math.log(value / low) / Math.log(high / low);
        if (share >= 0 && share <= 1) ticks.push({ share, text: formatNumber(value, { short: true }) });
      }
    }
    return ticks;
  }

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
    byId("detail").replaceChildren(heading, statList(row), panels, ...contextList(row, detail.contexts));
    drawActivations = () => {
      const drawn = detail.histogram.some((count) => count > 0)
        ? activationChart(detail.histogram, chart.clientWidth || 360)
        : element("p", {}, "This feature never fired.");
      chart.replaceChildren(drawn);
    };
    drawActivations();
    drawTurns();
  }

  function statList(row) {
    const density = index.density[row];
    const stats = [
      ["Density", formatShare(density)],
      ["Fires on", index.count[row] ? `${formatCount(index.count[row])} tokens, 1 in ${formatCount(Math.round(1 / density))}` : "no token"],
      ["Mean", formatNumber(index.mean[row])],
      ["Max", formatNumber(index.max[row])],
    ];
    const items = stats.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value)));
    return element("dl", { class: "stats" }, ...items);
  }

  function largestLogit(detail) {
    return Math.max(...[...detail.promoted, ...detail.suppressed].map(([, logit]) => Math.abs(logit)), 1e-9);
  }

  function logitPanel(title, pairs, largest, down) {
    const items = pairs.map(([token, logit]) => {
      const fill = shape("rect", { width: (100 * Math.abs(logit)) / largest, height: 7 });
      const bar = shape("svg", { class: "track", viewBox: "0 0 100 7", preserveAspectRatio: "none", "aria-hidden": "true" }, fill);
      return element(
        "li",
        {},
        element("span", { class: "text" }, chip(token)),
        bar,
        element("span", { class: "value" }, logit === null ? "–" : logit.toFixed(2)),
      );
    });
    const content = items.length
      ? element("ol", { class: down ? "logits down" : "logits" }, ...items)
      : element("p", {}, "No logit lens was taken for this subject and hook point.");
    const hint = `Output tokens whose logits the decoder direction of this feature ${down ? "lowers" : "raises"} most`;
    return element("section", {}, element("h3", { title: hint }, title), content);
  }

  function contextList(row, contexts) {
    const tasks = new Map();
    for (const { task } of contexts) if (task) tasks.set(task, (tasks.get(task) || 0) + 1);
    const summary = [...tasks].sort((a, b) => b[1] - a[1]).map(([task, count]) => `${task} ${count}`);
    const head = element(
      "div",
      { class: "contexts-head" },
      element("h3", {}, "Top contexts"),
      element("p", {}, contexts.length ? summary.join(" · ") : "none"),
    );
    const items = contexts.map((context) => contextItem(context, index.max[row]));
    return [head, element("ol", { class: "contexts" }, ...items)];
  }

  function contextItem(context, featureMax) {
    const readout = element("span", { class: "readout" });
    const about = element(
      "div",
      { class: "about" },
      element("b", {}, formatNumber(context.value)),
      ...(context.task ? [element("span", {}, context.task)] : []),
      element("span", {}, `document ${context.document}`),
      element("span", {}, `position ${formatCount(context.position)}`),
      readout,
    );
    const active = new Map(context.active);
    const uncaptured = new Set(context.uncaptured);
    const tokens = context.tokens.map((text, place) => {
      const value = uncaptured.has(place) ? "not captured" : formatNumber(active.get(place) ?? 0);
      const kinds = ["token"];
      if (active.has(place)) kinds.push("on");
      if (place === context.peak) kinds.push("peak");
      if (uncaptured.has(place)) kinds.push("uncaptured");
      const next = (context.tokens[place + 1] ?? "")[0] ?? "";
      const dotSpaces = text.trim() === "";
      const span = element("span", { class: kinds.join(" "), title: value }, ...tokenText(text, { dotSpaces, next }));
      // A faint floor, so that the weakest activation still differs from none.
      const share = Math.min(Math.max((active.get(place) ?? 0) / (featureMax || 1), 0), 1);
      if (active.has(place)) span.style.setProperty("--share", 0.06 + 0.94 * share);
      return span;
    });
    const line = element("div", { class: "tokens", dir: "auto" }, ...tokens);
    line.addEventListener("mouseover", (event) => {
      const token = event.target.closest(".token");
      readout.textContent = token ? `${JSON.stringify(context.tokens[tokens.indexOf(token)])}  ${token.title}` : "";
    });
    line.addEventListener("mouseleave", () => (readout.textContent = ""));
    return element("li", {}, about, line);
  }

  /* The address names the open feature, where the page has an address of its own */

  function writeHash(feature) {
    try {
      history.replaceState(null, "", `#feature=${feature}`);
    } catch {
      // A page inside a sandboxed frame has no address to change.
    }
  }

  function rowFromHash() {
    try {
      const found = /^#feature=(\d+)$/.exec(location.hash);
      return found ? rowOfFeature.get(Number(found[1])) : undefined;
    } catch {
      return undefined;
    }
  }

  /* Events */

  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const inText = event.target.matches("input[type=search]");
    const inRange = event.target.matches("input[type=range]");
    const steps = { j: 1, k: -1, ...(inRange ? {} : { ArrowRight: 1, ArrowLeft: -1 }) };
    if (event.target === byId("rows")) {
      Object.assign(steps, { ArrowDown: 1, ArrowUp: -1, PageDown: PAGE_ROWS, PageUp: -PAGE_ROWS });
    }
    if (inText) onSearchKey(event);
    else if (event.key === "/") {
      event.preventDefault();
      if (phone.matches) close();
      byId("search").focus();
      byId("search").select();
    } else if (event.key in steps) {
      event.preventDefault();
      turn(steps[event.key]);
    } else if (event.key === "Escape" && phone.matches) close();
  }

  function onSearchKey(event) {
    if (event.key === "Escape") event.target.blur();
    if (event.key !== "Enter" && event.key !== "ArrowDown") return;
    event.preventDefault();
    const exact = rowOfFeature.get(Number(event.target.value.trim().replace("#", "") || NaN));
    const first = exact !== undefined && state.order.includes(exact) ? exact : state.order[0];
    byId("rows").focus();
    if (first !== undefined) open(first);
  }

  function listen() {
    document.addEventListener("keydown", onKey);
    byId("search").addEventListener("input", refresh);
    byId("hide-dead").addEventListener("change", refresh);
    byId("low").addEventListener("input", readRange);
    byId("high").addEventListener("input", readRange);
    byId("clear").addEventListener("click", clearFilters);
    byId("rows").addEventListener("scroll", () => window.requestAnimationFrame(drawRows), { passive: true });
    byId("rows").addEventListener("click", (event) => {
      const row = event.target.closest(".row");
      if (row) open(Number(row.dataset.row), { focus: phone.matches });
    });
    byId("columns").addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) sortBy(button.dataset.key);
    });
    byId("detail").addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button?.dataset.step) turn(Number(button.dataset.step));
      else if (button) close();
    });
    document.querySelector(".lineage").addEventListener("click", (event) => {
      const node = event.target.closest(".node");
      if (node) toggleNode(node);
    });
    window.addEventListener("hashchange", () => {
      const row = rowFromHash();
      if (row !== undefined && row !== state.selected) open(row);
    });
    new ResizeObserver(() => {
      drawDensity();
      drawRows();
      drawActivations();
    }).observe(byId("main"));
  }

  function toggleNode(node) {
    const opens = node.getAttribute("aria-expanded") === "false";
    for (const other of document.querySelectorAll(".node")) {
      const shown = opens && other === node;
      other.setAttribute("aria-expanded", shown);
      byId(other.getAttribute("aria-controls")).hidden = !shown;
    }
  }

  function start() {
    for (const id of ["low", "high"]) {
      Object.assign(byId(id), { min: 0, max: numBins, step: 1, disabled: !numBins });
    }
    byId("low").value = 0;
    byId("high").value = numBins;
    drawColumns();
    if (numBins) readRange();
    else {
      drawDensity();
      refresh();
    }
    listen();
    performance.mark("list-ready");
    const linked = rowFromHash();
    if (linked !== undefined) open(linked);
    else if (!phone.matches && state.order.length) open(state.order[0]);
  }

  start();
})();
