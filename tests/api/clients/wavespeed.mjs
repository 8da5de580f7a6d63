// What WaveSpeedAI's JavaScript client does, against a server of one's own: node wavespeed.mjs URL PICTURE PICTURE_URL
import { createRequire } from "node:module";
import path from "node:path";

const require = createRequire(path.join(process.env.CLIENTS, "package.json"));
const { Client } = require("wavespeed");

const [url, picture, address] = process.argv.slice(2);
const client = new Client(process.env.KEY, { baseUrl: url });
const model = "wavespeed-ai/flux-redux-dev";
const small = { size: "256*256", num_inference_steps: 1, enable_safety_checker: false };
const quick = { pollInterval: 0.05 };
const told = {};

const uploaded = await client.upload(picture);
told.run = (await client.run(model, { ...small, image: uploaded }, quick)).outputs;
told.sync = (await client.run(model, { ...small, image: address }, { enableSyncMode: true })).outputs;
const { outputs, detail } = await client.runNoThrow(model, { ...small, image: address }, quick);
told.noThrow = [outputs.length, detail.status];
told.get = (await client._getResult(detail.taskId)).data.status;
const refused = await client.runNoThrow(model, { ...small, image: address, num_images: 9 }, quick);
told.refused = refused.detail.error.message;
console.log(JSON.stringify(told));
