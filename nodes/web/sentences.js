// Takes sentences off nodes. The pack's nodes say on themselves why they fail or what a sampling does (progress text);
// an empty sentence means that it is over, which the page itself passes by.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const WIDGET = "$$node-text-preview"; // the page's name for the text of a node

/** The node of an execution id, which in a subgraph names the nodes around it too: "7:3". */
function nodeOf(id) {
  let graph = app.rootGraph ?? app.graph;
  const path = String(id).split(":");
  for (const outer of path.slice(0, -1)) graph = graph?.getNodeById(Number(outer))?.subgraph;
  return graph?.getNodeById(Number(path.at(-1)));
}

function clear(node) {
  const index = node?.widgets?.findIndex(({ name }) => name === WIDGET) ?? -1;
  if (index < 0) return;
  const [width, height] = node.size;
  const room = node.widgets[index].computedHeight ?? 0; // by which the node had grown
  node.widgets[index].onRemove?.();
  node.widgets.splice(index, 1);
  node.setSize([width, Math.max(node.computeSize()[1], height - room)]);
  node.setDirtyCanvas(true, true);
}

app.registerExtension({
  name: "redux.sentences",
  setup() {
    api.addEventListener("progress_text", ({ detail }) => detail.text === "" && clear(nodeOf(detail.nodeId)));
  },
});
