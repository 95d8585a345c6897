// Pictures of the pages for README and docs/dashboards.md, of a running demo: `cargo xtask screenshots`.
// Usage: node screenshots.mjs ADDRESS FOLDER
import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { has, launch, watched } from "./pages.mjs";

const [address, folder] = process.argv.slice(2);

/** A picture that is larger does not belong into a repository. */
const BYTES_MAX = 150_000;

/** Pictures: name, view, theme, texts that have to be there first, and what is taken of the page. */
const PICTURES = [
  ["applications", "#/applications?range=300", "light", ["orders", "shop", "blog"], { height: 620 }],
  ["application", "#/application/initech/orders?range=300&part=called", "light", ["TCP connections", "refused", "SELECT"], { height: 1236 }],
  ["topology", "#/map?range=1800&filter=initech", "light", ["orders", "failed to connect", "ledger"], { height: 900 }],
  ["application-dark", "#/application/acme/shop?range=300&part=resources", "dark", ["Containers", "Guests", "of"], { height: 1180 }],
];

mkdirSync(folder, { recursive: true });
const browser = await launch();
try {
  for (const [name, view, colorScheme, texts, { height }] of PICTURES) {
    const context = await browser.newContext({ viewport: { width: 1280, height }, colorScheme, locale: "en-US" });
    const { page, faults } = await watched(context, [address]);
    await page.goto(`${address}/${view}`);
    await has(page, texts);
    assert.deepEqual(faults, [], `errors on ${name}`);
    // WebP, which Playwright has no option for.
    const session = await context.newCDPSession(page);
    const { data } = await session.send("Page.captureScreenshot", { format: "webp", quality: 80 });
    const picture = Buffer.from(data, "base64");
    assert.ok(picture.length < BYTES_MAX, `${name} has ${picture.length} bytes`);
    writeFileSync(join(folder, `${name}.webp`), picture);
    console.log(`${join(folder, name)}.webp  ${picture.length} bytes`);
    await context.close();
  }
} finally {
  await browser.close();
}
