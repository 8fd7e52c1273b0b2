// Reads a JSON list of {place, document}, and prints a line for each document that the models of its kind do not allow.
import { readFileSync } from "node:fs";

for (const { place, document } of JSON.parse(readFileSync(0, "utf8"))) {
  const [group, version] = document.apiVersion.split("/");
  const models = group.endsWith("envoyproxy.io") ? "envoy-gateway" : "gateway-api";
  const made = await import(`@kubernetes-models/${models}/${group}/${version}/${document.kind}`);
  try {
    new made[document.kind](document).validate();
  } catch (error) {
    console.log(`${place}: ${error.message}`);
  }
}
