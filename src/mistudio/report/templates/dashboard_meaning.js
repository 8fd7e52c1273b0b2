/* What was said of the open feature, how well that holds, and what surrounds it */

const METRICS = [
  { key: "f1", label: "F1" },
  { key: "precision", label: "Precision" },
  { key: "recall", label: "Recall" },
  { key: "balanced_accuracy", label: "Balanced acc." },
  { key: "accuracy", label: "Accuracy" },
  { key: "auroc", label: "AUROC" },
  { key: "correlation", label: "Correlation" },
];
const ANY = "_any"; // ends the name of a metric that takes any activation as firing
const SCORED = new Map([
  ["program/program", "Program"],
  ["token-set/program", "Bare set of tokens"],
  ["program/program-shuffled", "Another feature's program"],
]);
const EXPLAINERS = new Map([
  ["person", "by a person"],
  ["program", "program"],
  ["token-set", "best set of tokens alone"],
]);
const RELATIONS = [
  { key: "decoder", title: "Nearest directions", hint: "Cosine of decoder directions" },
  { key: "correlation", title: "Fire together", hint: "Correlation of activations over a sample of tokens" },
];

/** A link to another feature, with its label where it has one. */
function featureLink(feature, { withLabel = false } = {}) {
  const row = rowOfFeature.get(feature);
  if (row === undefined) return element("span", {}, `feature ${feature}`);
  const label = index.label?.[row] ? phrase(index.label[row]) : tokenLabel(row);
  const text = withLabel ? [element("b", {}, String(feature)), " ", ...label] : [`feature ${feature}`];
  return element("button", { type: "button", class: "link", "data-feature": feature, title: index.text?.[row] || null }, ...text);
}

function explanationSection(row, detail) {
  const without = (text, kind) => element("p", { class: "quiet" }, text, ...howTo(kind, row));
  if (!detail.explanations?.length) {
    const none = index.count[row] ? [without("Not explained.", "explain")] : [];
    return none.length ? [element("section", { class: "explanations", "aria-label": "Explanation" }, ...none)] : [];
  }
  const main = detail.explanations.filter(({ explainer }) => explainer !== "token-set");
  const tokenSets = detail.explanations.filter((one) => one.explainer === "token-set" && one.status === "explained");
  const different = tokenSets.filter(({ text }) => !main.some((one) => one.text === text));
  return [
    element(
      "section",
      { class: "explanations", "aria-label": "Explanation" },
      ...[...main, ...different].map(explanationLine),
      ...scoreTable(row, detail.scores),
    ),
  ];
}

function explanationLine({ explainer, status, text, confidence, model }) {
  const sure = confidence === null || explainer === "person" ? [] : [`fit on training documents ${confidence.toFixed(2)}`];
  const about = [EXPLAINERS.get(explainer) ?? explainer, ...(model ? [model] : []), ...sure].join(" · ");
  const content = status === "explained" ? phrase(text) : [`No explanation (${status}): ${text}`];
  return element("p", { class: `explanation ${status}` }, ...content, " ", element("span", { class: "quiet" }, about));
}

function scoreTable(row, scores) {
  const rows = scores.filter(isScored).flatMap(scoreRows);
  if (!rows.length) {
    // One that never fires, or whose scorers had nothing to judge, is no better for being asked again.
    const unasked = index.count[row] && !scores.length;
    const text = unasked ? "Not scored." : "No scores: it counts as not interpretable.";
    return [element("p", { class: "quiet" }, text, ...(unasked ? howTo("score", row) : []))];
  }
  const metrics = METRICS.filter(({ key }) => rows.some(({ figures }) => key in figures));
  const hasFailures = rows.some(({ failures }) => failures);
  const head = element(
    "tr",
    {},
    element("th", { scope: "col" }, "On held-out documents"),
    element("th", { scope: "col" }, "Fires"),
    ...metrics.map(({ label }) => element("th", { scope: "col" }, label)),
    ...(hasFailures ? [element("th", { scope: "col", title: "without a usable answer; they count as wrong" }, "Failures")] : []),
  );
  const body = rows.map((row) =>
    element(
      "tr",
      { class: row.quiet ? "control" : null },
      element("th", { scope: "row" }, row.name),
      element("td", { class: "definition" }, row.definition),
      ...metrics.map(({ key }) => scoreCell(row.figures[key])),
      ...(hasFailures ? [element("td", {}, `${formatCount(row.failures)} of ${formatCount(row.examples)}`)] : []),
    ),
  );
  const table = element("table", {}, element("thead", {}, head), element("tbody", {}, ...body));
  return [element("div", { class: "scores" }, table)];
}

/** Not so where there was nothing to score, as of a dead feature. */
function isScored({ examples, failures, figures }) {
  return failures < examples || Object.values(figures).some(([value]) => value !== null);
}

/** Programs are scored by two definitions of firing: a row each. */
function scoreRows({ explainer, scorer, examples, failures, figures }) {
  const name = SCORED.get(`${explainer}/${scorer}`) ?? `${explainer}, by ${scorer}`;
  const rest = { name, examples, failures, quiet: scorer !== explainer && SCORED.has(`${explainer}/${scorer}`) };
  const [above, any] = [{}, {}];
  for (const [metric, figure] of Object.entries(figures)) {
    if (metric.endsWith(ANY)) any[metric.slice(0, -ANY.length)] = figure;
    else above[metric] = figure;
  }
  const firing = index.distribution.firing;
  const share = firing ? `above ${Math.round(100 * firing)}% of max` : "";
  if (!Object.keys(any).length) return [{ ...rest, definition: "", figures: above }];
  return [
    { ...rest, definition: `${share}${firesOn(above)}`, figures: above },
    { ...rest, name: "", definition: `at all${firesOn(any)}`, figures: any, failures: 0 },
  ];
}

/** On how many held-out tokens it fires, where that was counted. */
function firesOn({ fires }) {
  if (!fires || fires[0] === null) return "";
  return `: ${formatCount(fires[0])} ${fires[0] === 1 ? "token" : "tokens"}`;
}

function scoreCell(figure) {
  if (!figure || figure[0] === null) return element("td", {}, "–");
  const [value, low, high] = figure;
  const hint = "95% interval, by bootstrap over documents";
  const interval = low === null ? "" : element("span", { class: "interval", title: hint }, `${low.toFixed(2)}–${high.toFixed(2)}`);
  return element("td", {}, element("b", {}, formatScore(value)), interval);
}

/** Tasks and positions, nearest directions, and what fires with it; nothing where nothing is known. */
function surroundingPanels(detail) {
  const sections = RELATIONS.filter(({ key }) => detail.neighbours?.[key]).map((relation) =>
    neighbourPanel(relation, detail.neighbours[relation.key]),
  );
  if (detail.task_density || detail.position_density) sections.unshift(profilePanel(detail));
  return sections.length ? [element("div", { class: "panels" }, ...sections)] : [];
}

function neighbourPanel({ key, title, hint }, neighbours) {
  const items = neighbours.map(([feature, value]) =>
    element(
      "li",
      {},
      featureLink(feature, { withLabel: true }),
      element("span", { class: "value" }, value === null ? "–" : value.toFixed(2)),
    ),
  );
  return element(
    "section",
    { class: "neighbours", "data-relation": key },
    element("h3", { title: hint }, title),
    element("ol", {}, ...items),
  );
}

function profilePanel(detail) {
  const section = element("section", { class: "profile" });
  if (detail.task_density) {
    const largest = Math.max(...detail.task_density, 1e-12);
    const items = detail.task_density.map((density, place) =>
      element(
        "li",
        {},
        element("span", { class: "text" }, index.tasks[place]),
        bar(density / largest),
        element("span", { class: "value" }, formatShare(density)),
      ),
    );
    const hint = "Share of the tokens of each task that it fires on";
    section.append(element("h3", { title: hint }, "Tasks"), element("ol", { class: "logits tasks" }, ...items));
  }
  if (detail.position_density) {
    const largest = Math.max(...detail.position_density, 1e-12);
    const edges = index.position_edges;
    const { chart } = barChart({
      counts: detail.position_density.map((density) => density / largest),
      width: 300,
      height: 66,
      top: 6,
      bottom: 16,
      ticks: edges.map((edge, place) => ({ share: (place + 0.5) / edges.length, text: edge === 512 ? "512+" : String(edge) })),
      title: "Share of tokens it fires on, by position in the document",
      isOn: () => true,
    });
    section.append(element("h3", { title: "Share of the tokens at each position of a document, from the one named" }, "Positions"));
    section.append(element("div", { class: "chart" }, chart));
  }
  return section;
}

/** Further figures of find, as terms and values. */
function furtherStats(detail) {
  const stats = [];
  if (detail.coherence !== undefined) stats.push(["Coherence", formatNumber(detail.coherence)]);
  if (detail.lift?.length) {
    const tokens = detail.lift.slice(0, 8).map(([token, lift]) => {
      const mark = chip(token);
      mark.title = `fires ${formatNumber(lift)} times as often on it`;
      return mark;
    });
    stats.push(["Goes with", element("span", { class: "chips" }, ...tokens)]);
  }
  return stats;
}
