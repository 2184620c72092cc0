// Streams one answer: node generate.mjs "Once upon a time"
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

const protos = fileURLToPath(new URL("../../../protos", import.meta.url));
const definition = loadSync("mlxmesh/generation/v1/generation.proto", {
  includeDirs: [protos],
  keepCase: true, // field names as in the contracts
  longs: String, // 64-bit numbers do not fit JavaScript's
  enums: String,
  oneofs: true,
});
const { GenerationService } = grpc.loadPackageDefinition(definition).mlxmesh.generation.v1;

const { MLXMESH_ADDRESS = "localhost:50051", MLXMESH_EXAMPLE_MODEL = "pocket" } = process.env;
const prompt = process.argv[2] ?? "Once upon a time";

const client = new GenerationService(MLXMESH_ADDRESS, grpc.credentials.createInsecure());
const stream = client.Generate(
  { model: MLXMESH_EXAMPLE_MODEL, prompt, max_tokens: 60, sampling: { temperature: 0.7 } },
  { deadline: Date.now() + 60_000 },
);

stream.on("data", ({ event, delta, finished }) => {
  if (event === "delta") process.stdout.write(delta.text);
  if (event === "finished") {
    const { prompt_tokens, completion_tokens } = finished.usage;
    console.log(`\n[${prompt_tokens} tokens in, ${completion_tokens} out]`);
  }
});
stream.on("error", (error) => {
  console.error(`${grpc.status[error.code]}: ${error.details}`);
  process.exitCode = 1;
  client.close();
});
stream.on("end", () => client.close());
