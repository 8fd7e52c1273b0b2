/* All features at once: how well their explanations hold, and a map of their directions */

const MAP_STEPS = 2000; // places along each side, as they were written
const MAP_MARGIN_PX = 14;
const MAP_REACH_PX = 12; // how far from a feature one may click
const DOT_PX = 3;
const GOLDEN_ANGLE = 137.508; // clusters with numbers close by get colours far apart
const MAP_ZOOM = { step: 1.5, most: 60, byWheel: 0.0015 };
const DRAG_PX = 4; // a shorter way is a click
const mapView = { scale: 1, left: 0, top: 0, zoom: 1, offset: [0, 0], colour: "cluster" };

function showOverview(shown) {
  byId("overview").hidden = !shown;
  byId("detail").hidden = shown;
  byId("show-overview")?.setAttribute("aria-expanded", shown);
  document.body.classList.toggle("feature-open", shown || state.selected >= 0);
  if (shown) drawOverview();
}

function drawOverview() {
  if (byId("overview").hidden) return;
  drawDistribution();
  drawMap();
}

function drawDistribution() {
  const holder = byId("score-chart");
  if (!holder) return;
  const { counts, edges: bounds, label, threshold } = index.distribution;
  const ticks = [0, 0.2, 0.4, 0.6, 0.8, 1].map((value) => ({ share: value, text: String(value) }));
  const { chart, step, floor } = barChart({
    counts,
    width: holder.clientWidth || 420,
    height: 210,
    top: 18,
    bottom: 32,
    ticks,
    title: `Features by held-out ${label}`,
    isOn: (bin) => bounds[bin] >= threshold,
  });
  counts.forEach((count, bin) => {
    const note = shape("title", {}, `${bounds[bin]} to ${bounds[bin + 1]}: ${formatCount(count)} features`);
    chart.append(shape("rect", { class: "hit", x: bin * step, width: step, y: 0, height: floor }, note));
  });
  const width = counts.length * step;
  chart.append(shape("text", { x: 0, y: 12 }, `${formatCount(Math.max(...counts))} features`));
  chart.append(shape("text", { x: width / 2, y: 206, "text-anchor": "middle" }, `held-out ${label}`));
  holder.replaceChildren(chart);
}

function mapPlace(row) {
  const { scale, left, top, zoom, offset } = mapView;
  return [
    (left + index.x[row] * scale) * zoom + offset[0],
    (top + (MAP_STEPS - index.y[row]) * scale) * zoom + offset[1],
  ];
}

/** Zoom about a place of the canvas, its middle if none is given, and never show what is beside the map. */
function zoomMap(factor, [x, y] = mapMiddle()) {
  const zoom = Math.min(Math.max(mapView.zoom * factor, 1), MAP_ZOOM.most);
  const [left, top] = mapView.offset;
  const grown = zoom / mapView.zoom;
  mapView.zoom = zoom;
  moveMap(x - (x - left) * grown, y - (y - top) * grown);
}

function moveMap(left, top) {
  const canvas = byId("map");
  const within = (value, size) => Math.min(Math.max(value, size * (1 - mapView.zoom)), 0);
  mapView.offset = [within(left, canvas.clientWidth), within(top, canvas.clientHeight)];
  canvas.classList.toggle("zoomed", mapView.zoom > 1);
  drawMap();
}

function mapMiddle() {
  return [byId("map").clientWidth / 2, byId("map").clientHeight / 2];
}

function onMap(event) {
  const box = byId("map").getBoundingClientRect();
  return [event.clientX - box.left - 1, event.clientY - box.top - 1]; // its border is a pixel wide
}

function drawMap() {
  const canvas = byId("map");
  if (!canvas) return;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  const ratio = window.devicePixelRatio || 1;
  [canvas.width, canvas.height] = [width * ratio, height * ratio];
  fitMap(width, height);
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  const shown = new Set(state.order);
  const rows = index.x.map((_, row) => row);
  const quiet = getComputedStyle(canvas).getPropertyValue("--quiet");
  const dot = DOT_PX * mapView.zoom ** 0.25;
  for (const row of [...rows.filter((row) => !shown.has(row)), ...rows.filter((row) => shown.has(row))]) {
    context.globalAlpha = shown.has(row) ? 0.85 : 0.12;
    context.fillStyle = mapColour(row) ?? quiet;
    context.beginPath();
    context.arc(...mapPlace(row), dot, 0, 2 * Math.PI);
    context.fill();
  }
  if (state.selected < 0) return;
  context.globalAlpha = 1;
  context.strokeStyle = getComputedStyle(canvas).getPropertyValue("--text");
  context.lineWidth = 2;
  context.beginPath();
  context.arc(...mapPlace(state.selected), 2 * dot, 0, 2 * Math.PI);
  context.stroke();
}

/** One scale for both axes, with the middle of the features in the middle. */
function fitMap(width, height) {
  const [across, up] = [Math.max(...index.x, 1), Math.max(...index.y, 1)];
  mapView.scale = Math.min((width - 2 * MAP_MARGIN_PX) / across, (height - 2 * MAP_MARGIN_PX) / up);
  mapView.left = (width - across * mapView.scale) / 2;
  mapView.top = (height - up * mapView.scale) / 2 - (MAP_STEPS - up) * mapView.scale;
}

function mapColour(row) {
  if (mapView.colour === "score") {
    const score = index.score[row];
    return score === null ? null : `hsl(${Math.round(10 + 200 * Math.max(score, 0))} 70% 45%)`;
  }
  const cluster = index.cluster[row];
  return cluster === null ? null : `hsl(${Math.round((cluster * GOLDEN_ANGLE) % 360)} 60% ${cluster % 2 ? 42 : 55}%)`;
}

/** The feature that is nearest to a place on the map, of those that pass the filters. */
function featureAt(event) {
  const [x, y] = onMap(event);
  let [nearest, distance] = [-1, MAP_REACH_PX];
  for (const row of state.order) {
    const [left, top] = mapPlace(row);
    const away = Math.hypot(left - x, top - y);
    if (away < distance) [nearest, distance] = [row, away];
  }
  return nearest;
}

function describeOnMap(row) {
  if (row < 0) {
    const scale = mapView.colour === "score" ? " Red is 0, blue is 1." : "";
    byId("map-text").textContent =
      `Click a feature to open it; scroll to zoom, drag to move. Features that the list does not show are faint.${scale}`;
    return;
  }
  const parts = [
    element("b", {}, `Feature ${index.feature[row]}`),
    " ",
    ...(index.label?.[row] ? phrase(index.label[row]) : tokenLabel(row)),
    ...(index.cluster[row] === null ? [] : [element("span", { class: "quiet" }, ` cluster ${index.cluster[row]}`)]),
  ];
  byId("map-text").replaceChildren(...parts);
}

function listenToOverview() {
  if (!byId("show-overview")) return;
  byId("show-overview").addEventListener("click", () => showOverview(byId("overview").hidden));
  byId("hide-overview").addEventListener("click", () => showOverview(false));
  const canvas = byId("map");
  if (!canvas) return;
  describeOnMap(-1);
  canvas.addEventListener("mousemove", (event) => {
    const row = featureAt(event);
    canvas.classList.toggle("over", row >= 0);
    describeOnMap(row);
  });
  canvas.addEventListener("mouseleave", () => describeOnMap(-1));
  listenToMapView(canvas);
  byId("map-colour")?.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    mapView.colour = button.dataset.colour;
    for (const other of byId("map-colour").children) other.setAttribute("aria-pressed", other === button);
    describeOnMap(-1);
    drawMap();
  });
}

/** Wheel, drag and buttons; what was no drag is a click, which opens a feature. */
function listenToMapView(canvas) {
  let drag = null;
  canvas.addEventListener(
    "wheel",
    (event) => {
      if (event.deltaY > 0 && mapView.zoom === 1) return; // nothing to zoom out of: let the page scroll
      event.preventDefault();
      zoomMap(Math.exp(-event.deltaY * MAP_ZOOM.byWheel), onMap(event));
    },
    { passive: false },
  );
  canvas.addEventListener("pointerdown", (event) => {
    drag = { from: onMap(event), offset: mapView.offset, far: false };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!drag) return;
    const way = onMap(event).map((place, axis) => place - drag.from[axis]);
    drag.far ||= Math.hypot(...way) > DRAG_PX;
    if (drag.far) moveMap(drag.offset[0] + way[0], drag.offset[1] + way[1]);
  });
  canvas.addEventListener("pointercancel", () => (drag = null));
  canvas.addEventListener("pointerup", (event) => {
    const row = drag && !drag.far ? featureAt(event) : -1;
    drag = null;
    if (row >= 0) open(row, { focus: true });
  });
  byId("map-zoom").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) zoomMap({ in: MAP_ZOOM.step, out: 1 / MAP_ZOOM.step, all: 0 }[button.dataset.zoom]);
  });
}
