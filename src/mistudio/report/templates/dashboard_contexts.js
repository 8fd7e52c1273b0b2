/* Contexts of the open feature */

const SHADINGS = [
  { key: "active", label: "Activation", hint: "the feature's activation on each token" },
  {
    key: "integrated",
    label: "Integrated gradients",
    hint: "what each input token adds to the outlined activation, by integrated gradients; blue takes away from it",
  },
  {
    key: "gradient",
    label: "Gradient",
    hint: "what each input token adds to the outlined activation, by gradient × activation; blue takes away from it",
  },
];
const MORE_CONTEXTS = [
  { kind: "sampled", title: "Sampled contexts", hint: "drawn over the range of its activations, strongest fifth first" },
  { kind: "hard_negative", title: "Hard negatives", hint: "a neighbour fires on the outlined token, this feature on none" },
  { kind: "random", title: "Contexts without it", hint: "drawn at random from where it does not fire" },
];
const FAINTEST_SHARE = 0.06; // so that the weakest activation still differs from none

function contextSections(row, detail) {
  const contexts = detail.contexts;
  const tasks = new Map();
  for (const { task } of contexts) if (task) tasks.set(task, (tasks.get(task) || 0) + 1);
  const summary = [...tasks].sort((a, b) => b[1] - a[1]).map(([task, count]) => `${task} ${count}`);
  const head = element(
    "div",
    { class: "contexts-head" },
    element("h3", {}, "Top contexts"),
    element("p", {}, contexts.length ? summary.join(" · ") : "none"),
  );
  const folded = MORE_CONTEXTS.filter(({ kind }) => detail[kind]?.length).map((more) =>
    foldedContexts(row, more, detail[more.kind]),
  );
  return [head, contextList(row, contexts), ...folded];
}

function contextList(row, contexts) {
  const list = element("ol", { class: "contexts" });
  const draw = () => list.replaceChildren(...contexts.map((context) => contextItem(context, index.max[row])));
  list.addEventListener("click", (event) => {
    const button = event.target.closest("[data-shading]");
    if (!button) return;
    state.shading = button.dataset.shading;
    draw();
    list.querySelector(`[data-shading="${state.shading}"]`).focus();
  });
  draw();
  return list;
}

/** A section that is drawn when it is opened, and stays open from feature to feature. */
function foldedContexts(row, { kind, title, hint }, contexts) {
  const heading = element(
    "summary",
    {},
    element("h3", {}, `${title} (${contexts.length})`),
    element("span", { class: "quiet" }, hint),
  );
  const section = element("details", { class: "folded", "data-kind": kind }, heading);
  section.addEventListener("toggle", () => {
    state.unfolded[section.open ? "add" : "delete"](kind);
    if (section.open && section.children.length === 1) section.append(contextList(row, contexts));
  });
  section.open = state.unfolded.has(kind);
  return section;
}

function contextItem(context, featureMax) {
  const shading = context[state.shading] ? state.shading : "active";
  const readout = element("span", { class: "readout" });
  const about = element(
    "div",
    { class: "about" },
    ...(context.value ? [element("b", {}, formatNumber(context.value))] : []),
    ...(context.neighbour === undefined ? [] : [element("span", {}, "beside ", featureLink(context.neighbour))]),
    ...(context.task ? [element("span", {}, context.task)] : []),
    element("span", {}, `document ${context.document}`),
    element("span", {}, `position ${formatCount(context.position)}`),
    ...(context.integrated || context.gradient ? [shadingButtons(context, shading)] : []),
    readout,
  );
  const tokens = tokenSpans(context, shading, featureMax);
  const line = element("div", { class: "tokens", dir: "auto" }, ...tokens);
  line.addEventListener("mouseover", (event) => {
    const token = event.target.closest(".token");
    readout.textContent = token ? `${JSON.stringify(context.tokens[tokens.indexOf(token)])}  ${token.title}` : "";
  });
  line.addEventListener("mouseleave", () => (readout.textContent = ""));
  return element("li", {}, about, line);
}

function shadingButtons(context, shading) {
  const there = SHADINGS.filter(({ key }) => context[key]);
  const buttons = there.map(({ key, label, hint }) =>
    element("button", { type: "button", "data-shading": key, "aria-pressed": key === shading, title: hint }, label),
  );
  return element("span", { class: "choice", role: "group", "aria-label": "Shade tokens by" }, ...buttons);
}

function tokenSpans(context, shading, featureMax) {
  const shaded = new Map(context[shading]);
  const uncaptured = new Set(shading === "active" ? context.uncaptured : []);
  const largest = shading === "active" ? featureMax : Math.max(...[...shaded.values()].map(Math.abs));
  return context.tokens.map((text, place) => {
    const value = shaded.get(place) ?? 0;
    const kinds = ["token"];
    if (shaded.has(place)) kinds.push("on");
    if (value < 0) kinds.push("against");
    if (place === context.peak) kinds.push("peak");
    if (uncaptured.has(place)) kinds.push("uncaptured");
    const next = (context.tokens[place + 1] ?? "")[0] ?? "";
    const dotSpaces = text.trim() === "";
    const title = uncaptured.has(place) ? "not captured" : formatNumber(value);
    const span = element("span", { class: kinds.join(" "), title }, ...tokenText(text, { dotSpaces, next }));
    const linear = Math.min(Math.abs(value) / (largest || 1), 1);
    // Most of what was attributed falls to the outlined token itself: the root leaves the others visible.
    const share = shading === "active" ? linear : Math.sqrt(linear);
    if (shaded.has(place)) span.style.setProperty("--share", FAINTEST_SHARE + (1 - FAINTEST_SHARE) * share);
    return span;
  });
}
