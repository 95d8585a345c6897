// Builds the bundle into the folder that is named (`--out`), or the unit tests into it (`--tests`). Names have the content's
// hash, so that browsers may keep the files for good.
import { build } from "esbuild";
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const option = (name) => {
  const at = process.argv.indexOf(name);
  return at < 0 ? undefined : process.argv[at + 1];
};
const out = option("--out");
if (!out) {
  console.error("usage: node build.mjs [--tests] --out FOLDER");
  process.exit(2);
}
rmSync(out, { recursive: true, force: true });
mkdirSync(out, { recursive: true });

if (process.argv.includes("--tests")) {
  const tests = readdirSync(join(here, "tests")).filter((name) => name.endsWith(".test.tsx") || name.endsWith(".test.ts"));
  await build({
    entryPoints: tests.map((name) => join(here, "tests", name)),
    outdir: out,
    outExtension: { ".js": ".mjs" },
    bundle: true,
    platform: "node",
    format: "esm",
    target: "node18",
    jsx: "automatic",
    jsxImportSource: "preact",
    loader: { ".css": "empty" },
    logLevel: "warning",
  });
} else {
  const result = await build({
    entryPoints: [join(here, "src/main.tsx"), join(here, "src/icon.svg")],
    outdir: out,
    entryNames: "[name]-[hash]",
    loader: { ".svg": "copy" },
    bundle: true,
    minify: true,
    format: "esm",
    target: ["chrome109", "firefox115", "safari16"],
    jsx: "automatic",
    jsxImportSource: "preact",
    metafile: true,
    legalComments: "eof",
    logLevel: "warning",
  });
  const names = Object.keys(result.metafile.outputs).map((path) => basename(path));
  const page = readFileSync(join(here, "src/index.html"), "utf8");
  const linked = page.replace(/\/assets\/(main|icon)\.(\w+)/g, (_, stem, ending) => {
    const name = names.find((name) => name.startsWith(`${stem}-`) && name.endsWith(`.${ending}`));
    if (!name) throw new Error(`no ${stem}.${ending} was built`);
    return `/assets/${name}`;
  });
  writeFileSync(join(out, "index.html"), linked);
}
