// Edit > Convert to Redux Control: opens a converted copy of the graph as a new, unsaved workflow, and says what it
// could not carry over. The graph it was asked for stays as it is.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const ID = "Redux.ConvertWorkflow";

function tell(severity, summary, detail, life) {
  app.extensionManager.toast.add({ severity, summary, detail, life });
}

async function convertWorkflow() {
  const graph = app.rootGraph ?? app.graph;
  const answer = await api.fetchApi("/redux/convert", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(graph.serialize()),
  });
  const { error, workflow, converted, notes } = await answer.json();
  if (error) return tell("warn", "Redux Control", error, 8000);
  if (!converted.length) return tell("warn", "Nothing was converted", notes.join("\n"));
  const open = app.extensionManager.workflow?.activeWorkflow;
  const name = open?.filename ?? open?.path?.split("/").pop().replace(/\.json$/, "") ?? "Workflow";
  await app.loadGraphData(workflow, true, true, `${name} (Redux Control)`);
  tell("success", "Converted", converted.join("\n"), 8000);
  if (notes.length) tell("warn", "Not carried over, or not exactly", notes.join("\n"));
}

app.registerExtension({
  name: "redux.convertWorkflow",
  commands: [{ id: ID, label: "Convert to Redux Control", icon: "pi pi-arrow-right-arrow-left", function: convertWorkflow }],
  menuCommands: [{ path: ["Edit"], commands: [ID] }],
});
