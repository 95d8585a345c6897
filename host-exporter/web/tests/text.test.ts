import assert from "node:assert/strict";
import { test } from "node:test";
import { preferred, textOf } from "../src/text";

test("the first language of the browser that there is decides", () => {
  assert.equal(preferred(["zh-CN", "en"]), "zh");
  assert.equal(preferred(["de", "zh-Hant-TW"]), "zh");
  assert.equal(preferred(["de", "fr"]), "en");
  assert.equal(preferred([]), "en");
});

test("words are translated", () => {
  assert.equal(textOf("en")("applications"), "Applications");
  assert.equal(textOf("zh")("applications"), "应用");
});
