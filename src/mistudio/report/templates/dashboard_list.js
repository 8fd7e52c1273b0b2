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
  const tie = (a, b) => (state.sort === "worth" ? index.density[b] - index.density[a] : 0);
  order.sort((a, b) => sign * ((column[a] ?? -1) - (column[b] ?? -1)) || tie(a, b) || a - b);
  state.order = order;
  byId("shown").textContent = `${formatCount(order.length)} of ${formatCount(numRows)} features`;
  byId("clear").hidden = filter.query === "" && state.low === 0 && state.high === numBins;
  byId("tall").style.height = `${order.length * ROW_HEIGHT_PX}px`;
  byId("rows").scrollTop = 0;
  drawRows();
  drawTurns();
  drawOverview();
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
      class: flagOf(row) ? "row flagged" : "row",
      role: "option",
      id: `row-${row}`,
      "data-row": row,
      "aria-selected": row === state.selected,
      "aria-posinset": place + 1,
      "aria-setsize": state.order.length,
    },
    element("span", { class: "number" }, String(index.feature[row])),
    ...badge(row, { short: true }),
    element("span", { class: "peaks" }, ...rowLabel(row)),
    ...values.map((value) => element("span", { class: "value" }, value)),
    element("span", { class: "value" }, shortCount(index.count[row])),
    ...(index.score ? [element("span", { class: "value" }, formatScore(index.score[row]))] : []),
  );
}

/** What sets a feature apart from those worth seeing, in a word; null for most. */
function flagOf(row) {
  if (index.count[row] === 0) return "dead";
  if (index.density[row] > index.dense_above) return "dense";
  return index.feature[row] in index.like ? "near-duplicate" : null;
}

function badge(row, { short = false } = {}) {
  const flag = flagOf(row);
  if (!flag) return [];
  const text = short && flag === "near-duplicate" ? `≈ ${index.like[index.feature[row]]}` : flag;
  return [element("span", { class: `badge ${flag}`, title: flag }, text)];
}

/** The tokens it peaks on. */
function tokenLabel(row) {
  if (index.count[row] === 0) return [element("span", { class: "aside-text" }, "never fired")];
  return index.peaks[row].map(chip);
}

/** Its label, or the tokens it peaks on; where the search met only something else that is known of it, that. */
function rowLabel(row) {
  if (index.count[row] === 0) return tokenLabel(row);
  const { query, number } = filterFromControls();
  const meets = (token) => query !== "" && number === null && token.toLowerCase().includes(query);
  const [label, text] = [index.label?.[row] ?? "", index.text?.[row] ?? ""];
  if (label && (query === "" || number !== null || meets(label))) return phrase(label);
  if (meets(text)) return phrase(text);
  const chips = tokenLabel(row);
  if (index.peaks[row].some(meets)) return chips;
  const promoted = index.promoted[row].filter(meets);
  if (!promoted.length) return chips;
  return [...chips.slice(0, 2), element("span", { class: "aside-text" }, " promotes "), ...promoted.map(chip)];
}

const LONG_NAMES = { Feature: "number", Density: "density", Mean: "mean activation", Max: "largest activation", Tokens: "tokens fired on", Score: "score" };

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
  const { label } = COLUMNS.find(({ key }) => key === state.sort) ?? {};
  byId("order-text").textContent = label ? `By ${LONG_NAMES[label] ?? label}, ${state.descending ? "falling" : "rising"}` : "Most worth seeing first";
  byId("by-worth").hidden = !label;
}

function sortBy(key) {
  const column = COLUMNS.find((candidate) => candidate.key === key);
  state.descending = state.sort === key && column ? !state.descending : (column?.descending ?? true);
  state.sort = key;
  drawColumns();
  (byId("columns").querySelector(`[data-key="${key}"]`) ?? byId("rows")).focus();
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
