// Makes footfall.js of src/: one file, no imports, for every browser since 2020. `--check` only compares.
import { readFileSync, writeFileSync } from "node:fs";
import { build } from "esbuild";

const { version } = JSON.parse(readFileSync("package.json", "utf-8"));
const made = await build({
  entryPoints: ["src/footfall.ts"],
  bundle: true,
  minify: true,
  format: "iife",
  target: "es2020",
  charset: "utf8",
  define: { VERSION: JSON.stringify(version) },
  banner: { js: `/* footfall.js ${version}, built from sdk_bridge/web/src */` },
  write: false,
});
const text = made.outputFiles[0].text;
if (!process.argv.includes("--check")) {
  writeFileSync("footfall.js", text);
} else if (readFileSync("footfall.js", "utf-8") !== text) {
  console.error("footfall.js is not what src/ makes: run `npm run build`");
  process.exit(1);
}
