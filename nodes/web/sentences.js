// Keeps the sentences on nodes until they are over. The pack's nodes say on themselves why they fail or what a sampling
// does (progress text). Newer pages take such texts away at the end of the job that brought them, older ones never do.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const WIDGET = "$$node-text-preview"; // the page's name for the text of a node
const ENDS = ["execution_success", "execution_error", "execution_interrupted"];
const LATER = 100; // milliseconds after the end of a job, when the page has taken its texts away

const said = new Map(); // node: its execution id and sentence

/** The node of an execution id, which in a subgraph names the nodes around it too: "7:3". */
function nodeOf(id) {
  let graph = app.rootGraph ?? app.graph;
  const path = String(id).split(":");
  for (const outer of path.slice(0, -1)) graph = graph?.getNodeById(Number(outer))?.subgraph;
  return graph?.getNodeById(Number(path.at(-1)));
}

const placeOf = (node) => node?.widgets?.findIndex(({ name }) => name === WIDGET) ?? -1;

function clear(node) {
  const index = placeOf(node);
  if (index < 0) return;
  const [width, height] = node.size;
  const room = node.widgets[index].computedHeight ?? 0; // by which the node had grown
  node.widgets[index].onRemove?.();
  node.widgets.splice(index, 1);
  node.setSize([width, Math.max(node.computeSize()[1], height - room)]);
  node.setDirtyCanvas(true, true);
}

function hear({ detail: { node: id, text } }) {
  const node = nodeOf(id);
  if (!node) return;
  if (text) {
    said.set(node, { id, text });
  } else {
    said.delete(node);
    clear(node);
  }
}

/** What a run said of a node is over when the node runs anew: a sampler that has no reference any more says nothing. */
function runsAnew({ detail: running }) {
  for (const [node, { id }] of said) {
    if (String(id) !== String(running)) continue;
    said.delete(node);
    clear(node);
  }
}

function sayAgain() {
  for (const [node, { id, text }] of said) {
    if (nodeOf(id) !== node) said.delete(node); // its graph is not open any more
    else if (placeOf(node) < 0) api.dispatchCustomEvent("progress_text", { nodeId: id, text });
  }
}

app.registerExtension({
  name: "redux.sentences",
  setup() {
    api.addEventListener("redux.sentence", hear);
    api.addEventListener("executing", runsAnew);
    for (const end of ENDS) api.addEventListener(end, () => setTimeout(sayAgain, LATER));
  },
});
