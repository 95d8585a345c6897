// Opens pages of an exporter that monitors real guests, on a desk and a phone, and looks for exact numbers in their tables.
// Usage: node real.mjs ADDRESS FOLDER PAGES: the address, the folder for the screenshots, and as JSON a list of
// { name, view, texts, cells: [{ row, column, value }] }; without a value the cell needs any number.
import assert from "node:assert/strict";
import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { check, has, launch, SIZES, SOON_MS, watched } from "./pages.mjs";

const [address, folder, pages] = process.argv.slice(2);
rmSync(folder, { recursive: true, force: true });
mkdirSync(folder, { recursive: true });
const browser = await launch();
try {
  for (const [size, colorScheme] of [["desk", "light"], ["desk", "dark"], ["phone", "light"]]) {
    const context = await browser.newContext({ viewport: SIZES[size], colorScheme, locale: "en-US" });
    for (const page of JSON.parse(pages)) await open(context, `${page.name}-${size}-${colorScheme}`, page);
    await context.close();
  }
} finally {
  await browser.close();
}

async function open(context, name, { view, texts, cells }) {
  const { page, faults } = await watched(context, [address]);
  await page.goto(`${address}/${view}`);
  await has(page, texts);
  for (const cell of cells) {
    // Numbers arrive with the agents' batches, and pages request them again at the end of each 15 seconds.
    const end = Date.now() + SOON_MS;
    let found = await page.evaluate(cellsOf, cell);
    const arrived = () => found.length > 0 && found.every((text) => (cell.value === undefined ? /\d/.test(text) : text === cell.value));
    while (!arrived() && Date.now() < end) {
      await page.waitForTimeout(250);
      found = await page.evaluate(cellsOf, cell);
    }
    assert.ok(arrived(), `${name}: ${JSON.stringify(cell)}, found ${JSON.stringify(found)}`);
  }
  await check(page, faults, name);
  await page.screenshot({ path: join(folder, `${name}.png`), fullPage: true });
  await page.close();
}

/** In the browser: the texts of a column's cells in the rows whose name is `row`. */
function cellsOf({ row, column }) {
  const texts = [];
  for (const table of document.querySelectorAll("table")) {
    const heads = [...table.querySelectorAll("th")].map((head) => head.textContent.replace(/[▲▼]/, ""));
    const at = heads.indexOf(column);
    if (at < 0) continue;
    for (const line of table.querySelectorAll("tbody tr")) {
      const name = line.querySelector(".name")?.textContent.trim();
      if (name === row) texts.push(line.children[at].textContent.trim());
    }
  }
  return texts;
}
