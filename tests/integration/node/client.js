// A client in another language, from the protos alone: unary, an error with its details, and a stream.
// Prints one JSON object; the Python test beside it judges.
"use strict";

const fs = require("fs");
const path = require("path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [target, protos, picture, third] = process.argv.slice(2);
const definition = loader.loadSync(path.join("opsin", "v1", "inference_service.proto"), {
  includeDirs: [protos, third],
  longs: Number,
  enums: String,
  oneofs: true,
});
const { opsin } = grpc.loadPackageDefinition(definition);
const client = new opsin.v1.InferenceService(target, grpc.credentials.createInsecure());
const encoded = fs.readFileSync(picture);

const detect = (request) =>
  new Promise((resolve) => {
    client.Detect(request, { deadline: Date.now() + 20000 }, (error, response) => {
      if (!error) return resolve({ response });
      resolve({
        code: grpc.status[error.code],
        trailers: Object.keys(error.metadata.getMap()),
      });
    });
  });

const stream = (frames) =>
  new Promise((resolve, reject) => {
    const replies = [];
    const call = client.StreamDetect();
    call.on("data", (reply) => replies.push(reply));
    call.on("error", reject);
    call.on("end", () => resolve(replies));
    call.write({ config: { model: "echo" } });
    for (let sequence = 1; sequence <= frames; sequence += 1) {
      call.write({ frame: { sequence, image: { encoded } } });
    }
    call.end();
  });

(async () => {
  const found = await detect({ model: "echo", image: { encoded } });
  const refused = await detect({ model: "ecko", image: { encoded } });
  const replies = await stream(5);
  console.log(
    JSON.stringify({
      label: found.response.detections[0].label,
      width: found.response.image.width,
      refused,
      kinds: replies.map((reply) => reply.kind),
      sequences: replies.filter((reply) => reply.result).map((reply) => reply.result.sequence),
    }),
  );
  client.close();
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
