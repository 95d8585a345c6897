// For those whose browser has no session and no certificate.

import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { signIn } from "../api";
import { useShared } from "../context";
import { WithCommands } from "../parts/WithCommands";

export function SignIn({ done }: { done: () => void }): JSX.Element {
  const { text } = useShared();
  const [problem, setProblem] = useState("");
  const submit = (event: SubmitEvent): void => {
    event.preventDefault();
    const token = new FormData(event.currentTarget as HTMLFormElement).get("token");
    signIn(typeof token === "string" ? token.trim() : "").then(
      (admitted) => {
        if (admitted) done();
        else setProblem(text("tokenRefused"));
      },
      () => {
        setProblem(text("failedToLoad"));
      },
    );
  };
  return (
    <form class="empty" onSubmit={submit}>
      <h1>{text("signIn")}</h1>
      <p>
        <label>
          {text("token")} <input name="token" type="password" autocomplete="current-password" required spellcheck={false} />
        </label>{" "}
        <button type="submit">{text("signIn")}</button>
      </p>
      <p role="alert" class="bad">
        {problem}
      </p>
      <p>
        <WithCommands of={text("tokenHint")} />
      </p>
    </form>
  );
}
