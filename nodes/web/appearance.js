// How the pack's nodes look on the canvas and where the page offers them: colours of the wires between them, a colour
// of their titles, room for their sliders, and their place in the menu that opens when a wire is dropped on the canvas.
import { app } from "../../scripts/app.js";

const WIRES = { REDUX_TOKENS: "#2fd3c4", REDUX_MODEL: "#c9916b" }; // unlike those of ComfyUI's own types
const TITLE = "#28474a";
const SLIDER_WIDTH = 340; // of a new node; in Nodes 2.0 names and numbers leave 200 less to the slider itself
const AFTER = { IMAGE: ["ReduxEncode"], MASK: ["ReduxApply", "ReduxEncode"], CONDITIONING: ["ReduxApply", "ReduxKeep"] };
const BEFORE = { CONDITIONING: ["ReduxApply"], MASK: ["ReduxRegions"] };

/** Whether a node has a wire of one of the pack's own types. */
function isOurs(node) {
  return [...(node.inputs ?? []), ...(node.outputs ?? [])].some(({ type }) => type in WIRES);
}

/** In classic rendering wires have their colours in two tables, which a change of the palette empties. */
function colorWires() {
  const LGraphCanvas = app.canvas?.constructor;
  for (const table of [LGraphCanvas?.link_type_colors, app.canvas?.default_connection_color_byType])
    if (table) Object.assign(table, WIRES);
  app.canvas?.setDirty(true, true);
}

/** LiteGraph's tables of nodes that fit behind an output and before an input, which end after a few core nodes. */
function offer() {
  for (const [table, nodes] of [[LiteGraph.slot_types_default_out, AFTER], [LiteGraph.slot_types_default_in, BEFORE]])
    for (const [type, names] of Object.entries(nodes)) table[type] = [...new Set([...(table[type] ?? []), ...names])];
}

app.registerExtension({
  name: "redux.appearance",
  setup() {
    // In Nodes 2.0 sockets read a variable of the page, which a palette does not touch here.
    const style = document.createElement("style");
    const variables = Object.entries(WIRES).map(([type, color]) => `--color-datatype-${type}: ${color};`);
    style.textContent = `:root { ${variables.join(" ")} }`;
    document.head.append(style);
    offer();
    app.ui.settings.addEventListener?.("Comfy.ColorPalette.change", () => setTimeout(colorWires, 100));
  },
  refreshComboInNodes: offer, // nodes are registered anew, which makes the tables anew
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith("Redux")) return;
    if (node.widgets?.some(({ type }) => type === "slider"))
      node.setSize([Math.max(node.size[0], SLIDER_WIDTH), node.size[1]]); // a saved graph brings its own size after this
    if (!isOurs(node)) return;
    node.color ??= TITLE;
    colorWires(); // the page may have taken a palette since
  },
});
