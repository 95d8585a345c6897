// What the compiler does not find: promises that are left alone, loose comparisons, markup made from text.
import js from "@eslint/js";
import ts from "typescript-eslint";

const MARKUP = "names come from tenants: put text into the page as text, never as markup";

export default ts.config(
  { ignores: ["node_modules", "eslint.config.js", "**/*.mjs"] },
  js.configs.recommended,
  ts.configs.strictTypeChecked,
  {
    languageOptions: { parserOptions: { project: "./tsconfig.json", tsconfigRootDir: import.meta.dirname } },
    rules: {
      eqeqeq: "error",
      "no-eval": "error",
      "@typescript-eslint/restrict-template-expressions": ["error", { allowNumber: true }],
      "@typescript-eslint/no-floating-promises": [
        "error",
        { allowForKnownSafeCalls: [{ from: "package", name: "test", package: "node:test" }] },
      ],
      "no-restricted-properties": [
        "error",
        ...["innerHTML", "outerHTML", "insertAdjacentHTML", "write", "srcdoc"].map((property) => ({ property, message: MARKUP })),
      ],
      "no-restricted-syntax": ["error", { selector: "JSXAttribute[name.name='dangerouslySetInnerHTML']", message: MARKUP }],
    },
  },
);
