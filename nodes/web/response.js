// "Apply Redux" got the choice of a response after graphs had been saved without one, which mean a weight. The page
// gives a missing value the default of new nodes, so that those graphs would change; this gives them theirs.
import { app } from "../../scripts/app.js";

const NODE = "ReduxApply";
const INPUT = "response";
const OLDER = "weight";

function isNamed(values, index) {
  const value = Array.isArray(values) ? values[index] : values[INPUT];
  return value !== undefined && value !== null;
}

app.registerExtension({
  name: "redux.response",
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (nodeData.name !== NODE) return;
    const onConfigure = nodeType.prototype.onConfigure;
    nodeType.prototype.onConfigure = function (info) {
      const result = onConfigure?.apply(this, arguments);
      const index = this.widgets?.findIndex((widget) => widget.name === INPUT) ?? -1;
      if (index >= 0 && info?.widgets_values && !isNamed(info.widgets_values, index)) {
        this.widgets[index].value = OLDER;
      }
      return result;
    };
  },
  setup() {
    // A prompt as the queue takes it names inputs; those that it leaves out would get the default as well.
    const loadApiJson = app.loadApiJson;
    app.loadApiJson = function (prompt, ...rest) {
      const entries = Object.entries(prompt ?? {}).map(([id, node]) => {
        const lacks = node?.class_type === NODE && node.inputs && !(INPUT in node.inputs);
        return [id, lacks ? { ...node, inputs: { ...node.inputs, [INPUT]: OLDER } } : node];
      });
      return loadApiJson.call(this, Object.fromEntries(entries), ...rest);
    };
  },
});
