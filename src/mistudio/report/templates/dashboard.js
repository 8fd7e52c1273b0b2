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
if (index.score) {
  const label = index.distribution.label === "F1" ? "F1" : "Score";
  COLUMNS.push({ key: "score", label, descending: true });
}
const numRows = index.feature.length;
const haystacks = index.feature.map((_, row) =>
  [...index.peaks[row], ...index.promoted[row], index.label?.[row] ?? "", index.text?.[row] ?? ""].join("\u0001").toLowerCase(),
);
const rowOfFeature = new Map(index.feature.map((feature, row) => [feature, row]));
const phone = window.matchMedia("(max-width: 760px)");

const edges = index.density_histogram.edges; // log10 of density
const numBins = Math.max(edges.length - 1, 0);
let drawActivations = () => {}; // draws the chart of the open feature to the width it has by now
const state = {
  sort: "worth",
  descending: true,
  low: 0,
  high: numBins,
  order: [],
  selected: -1,
  shading: "active",
  unfolded: new Set(), // kinds of contexts that are shown
};

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
    else if (button?.dataset.feature) open(rowOfFeature.get(Number(button.dataset.feature)), { focus: true });
    else if (button?.classList.contains("back")) close();
  });
  byId("by-worth").addEventListener("click", () => sortBy("worth"));
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
    drawOverview();
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
  listenToOverview();
  performance.mark("list-ready");
  const linked = rowFromHash();
  if (linked !== undefined) open(linked);
  else openFirst();
  // A frame may get its size after its scripts have run: until then it looks like a phone.
  phone.addEventListener("change", openFirst);
}

/* Where the list leaves room for a feature, one is always open */
function openFirst() {
  if (!phone.matches && state.selected < 0 && state.order.length) open(state.order[0]);
}

start();
