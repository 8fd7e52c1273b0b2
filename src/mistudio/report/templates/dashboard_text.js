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

/** A score between -1 and 1. */
function formatScore(value) {
  return value === null ? "–" : value.toFixed(3);
}

function formatCount(value) {
  return value.toLocaleString("en");
}

/** A count that fits a column. */
function shortCount(value) {
  return value < 1e6 ? formatCount(value) : `${(value / 1e6).toLocaleString("en", { maximumSignificantDigits: 3 })}M`;
}

/** A change of the loss, without its sign. */
function formatNats(value) {
  const size = Math.abs(value);
  return size < 0.0005 ? "less than 0.001" : size.toLocaleString("en", { maximumSignificantDigits: size < 0.1 ? 1 : 2 });
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

/** A sentence with its tokens, which stand between backticks, set apart. */
function phrase(text) {
  return text.split(/`(`|[^`]*)`/).map((part, place) => (place % 2 ? chip(part) : part)).filter(Boolean);
}

/** A bar as long as its share of the width. */
function bar(share) {
  const fill = shape("rect", { width: 100 * share, height: 7 });
  return shape("svg", { class: "track", viewBox: "0 0 100 7", preserveAspectRatio: "none", "aria-hidden": "true" }, fill);
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
