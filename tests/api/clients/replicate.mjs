// What Replicate's JavaScript client does, against a server of one's own: node replicate.mjs URL PICTURE PICTURE_URL
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";

const require = createRequire(path.join(process.env.CLIENTS, "package.json"));
const Replicate = require("replicate");

const [url, picture, address] = process.argv.slice(2);
const replicate = new Replicate({ auth: process.env.KEY, baseUrl: `${url}/v1` });
const model = "black-forest-labs/flux-redux-dev";
const version = "96b56814e57dfa601f3f524f82a2b336ef49012cda68828cb37cde66f481b7cb";
const small = { aspect_ratio: "21:9", megapixels: "0.25", num_inference_steps: 1, disable_safety_checker: true };
const fromFile = { ...small, redux_image: await readFile(picture) };
const fromWeb = { ...small, redux_image: address };
const told = {};

const size = async (output) => (await (await output.blob()).arrayBuffer()).byteLength;

const [ran] = await replicate.run(model, { input: fromFile });
told.run = await size(ran);
const [ranVersion] = await replicate.run(`${model}:${version}`, { input: fromWeb });
told.runVersion = await size(ranVersion);
told.runPolling = await replicate.run(model, { input: fromWeb, wait: { mode: "poll", interval: 50 } });

let prediction = await replicate.predictions.create({ model, input: fromWeb });
told.create = prediction.status;
prediction = await replicate.wait(prediction, { interval: 50 });
told.wait = prediction.status;
told.get = (await replicate.predictions.get(prediction.id)).status;

const slow = await replicate.predictions.create({ model, input: { ...fromWeb, num_inference_steps: 50, megapixels: "1" } });
await replicate.predictions.cancel(slow.id);
told.cancel = (await replicate.wait(slow, { interval: 50 })).status;

const ids = [];
for await (const page of replicate.paginate(replicate.predictions.list)) ids.push(...page.map((item) => item.id));
told.list = ids.slice(0, 2).join() === [slow.id, prediction.id].join();

told.stream = [];
for await (const event of replicate.stream(model, { input: fromWeb })) {
  if (event.event === "output") told.streamed = await size(event.data);
  if (told.stream.at(-1) !== event.event) told.stream.push(event.event);
}

const file = await replicate.files.create(await readFile(picture), { mine: "yes" });
told.file = (await replicate.files.get(file.id)).metadata;
told.files = (await replicate.files.list()).results.some((item) => item.id === file.id);
told.deleted = await replicate.files.delete(file.id);
told.model = (await replicate.models.get("black-forest-labs", "flux-redux-dev")).latest_version.id === version;
told.versions = (await replicate.models.versions.list("black-forest-labs", "flux-redux-dev")).results.length;
told.secret = (await replicate.webhooks.default.secret.get()).key.startsWith("whsec_");
try {
  await replicate.run(model, { input: { ...fromWeb, num_outputs: 9 } });
} catch (error) {
  told.refused = [error.response.status, error.message.includes("num_outputs")];
}
console.log(JSON.stringify(told));
