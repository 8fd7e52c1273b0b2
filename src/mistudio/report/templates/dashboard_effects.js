/* What a feature does in the model, and what is to be known of it before anything else */

const CLEAR = 2; // an effect of fewer times its control is not told from it
const DENSE_MEANS =
  "Such a feature often stands for a position, a kind of token or how sure the model is, more than for one topic, and a sentence about it says little.";
const TRIED_HOW =
  "In the contexts that it is strongest in, its part of the activation is taken away, and the loss of the next token is compared: the mean over the tokens that it fires on, in nats. The control takes another feature's direction away, as long: what any change of that size does. An effect of less than twice its control, in either direction, says little.";
const LOWER_WHY =
  "A loss that falls is no mistake of the page. The feature may hold back what comes next in these texts (see its suppressed tokens). It may be an error of the dictionary: it writes a direction that the model does not have there. Or it is chance, since few contexts are tried: trust it where the effect is several times its control.";
const NOT_TRIED_WHY = "Features are tried as far as find's budget goes, the most coherent first.";

// What has to follow a command, so that a page shows what it has found.
const THEN = { try: ["report"], explain: ["score", "report"], score: ["report"] };

/** The command that would find out what is not known of a feature. */
function howTo(kind, row) {
  const command = index.commands[kind];
  if (!command) return [];
  const then = THEN[kind].flatMap((step, place) => [place ? " and " : ", then ", element("code", {}, `mistudio ${step} …`)]);
  return [" This would do it: ", element("code", { class: "command" }, command.replace("{feature}", index.feature[row])), ...then, "."];
}

function flagNote(row) {
  const flag = flagOf(row);
  const share = element("b", {}, formatShare(index.density[row]));
  const notes = {
    dead: ["Dead: it never fired on the tokens searched, so nothing can be said of what it stands for."],
    dense: ["Dense: it fires on ", share, ` of all tokens, and counts as dense above ${formatShare(index.dense_above)}. ${DENSE_MEANS}`],
    "near-duplicate": ["Near-duplicate: its direction is nearly that of ", ...twinLink(row), ", which is worth more."],
  };
  return flag ? [element("p", { class: `flag ${flag}` }, ...notes[flag])] : [];
}

function twinLink(row) {
  return [featureLink(index.like[index.feature[row]])];
}

function effectSection(row, detail) {
  if (index.count[row] === 0) return [];
  const section = element("section", { class: "effect", "aria-label": "In the model" }, element("h3", {}, "In the model"));
  if (detail.ablation === undefined) {
    section.append(element("p", { class: "quiet" }, `Not tried in the model. ${NOT_TRIED_WHY}`, ...howTo("try", row)));
    return [section];
  }
  const why = detail.ablation < 0 ? `${TRIED_HOW} ${LOWER_WHY}` : TRIED_HOW;
  section.append(
    element("p", {}, ...effectWords(detail)),
    element("details", {}, element("summary", {}, "How this is measured, and what it can mean"), element("p", { class: "quiet" }, why)),
  );
  return [section];
}

/** What taking it away does to the next token, beside the control, and what follows from the two. */
function effectWords({ ablation, ablation_elsewhere: elsewhere, ablation_control: control }) {
  const words = ["Taking it away makes the next token ", ...change(ablation)];
  if (control !== undefined) words.push(` (control ${signedNats(control)})`);
  words.push(`: ${verdict(ablation, control)}.`);
  if (elsewhere !== undefined) words.push(" Later in the text, where it does not fire: ", ...change(elsewhere), ".");
  return words;
}

function change(value) {
  return [element("b", {}, value < 0 ? "easier" : "harder"), " to predict by ", element("b", {}, formatNats(value)), " nats"];
}

function verdict(value, control = 0) {
  if (Math.abs(value) < 0.0005) return "it makes no difference here";
  if (Math.abs(value) < CLEAR * Math.abs(control)) return "about what any direction of that length does, which says little";
  return value < 0 ? "the model is better off without it here" : "the model uses it here";
}

function signedNats(value) {
  return `${value < 0 ? "−" : ""}${formatNats(value)}`;
}
