import type { Overview, State } from "../api";
import { formatCount, formatDuration, formatMoney, formatRate } from "../format";
import { Link } from "../router";
import { SIGN_WORDS, type Sign, signsBetween, underWay } from "../way";

type WayData = Pick<
  Overview,
  "state" | "under_way_seconds" | "way" | "looked_seconds_ago" | "trouble"
>;

/** accepted = posted = stored = reported: the line that must hold. */
export function Way(data: WayData) {
  const { state, way } = data;
  const signs = signsBetween(state, way);
  const torn = signs.indexOf("≠");
  return (
    <section className="way" data-state={state} aria-label="Accepted = posted = stored = reported">
      <ol className="way-line">
        {way.map((step, index) => {
          const sign = signs[index - 1];
          return (
            <li key={step.step} data-torn={torn >= 0 && index > torn}>
              {sign && <SignMark sign={sign} />}
              <p className="way-step">{step.step}</p>
              <p className="way-count">{formatCount(step.count)}</p>
              <p className="way-amount">{formatMoney(step.amount)}</p>
              <p className="way-rate">
                {formatRate(step.per_second)} per second
                {step.behind > 0 && <span>, {formatCount(step.behind)} behind</span>}
              </p>
            </li>
          );
        })}
      </ol>
      <p className="way-sentence">
        <Sentence {...data} />
      </p>
      <p className="visually-hidden" role="alert">
        {ALERTS[state]}
      </p>
    </section>
  );
}

const ALERTS: Partial<Record<State, string>> = {
  broken: "Broken: the steps do not match.",
  unknown: "Not known: the stores can't be read.",
};

function SignMark({ sign }: { sign: Sign }) {
  return (
    <span className="way-sign" data-sign={sign}>
      <span aria-hidden="true">{sign}</span>
      <span className="visually-hidden">{SIGN_WORDS[sign]}</span>
    </span>
  );
}

function Sentence({ state, under_way_seconds, way, looked_seconds_ago, trouble }: WayData) {
  const { count, amount } = underWay(way);
  switch (state) {
    case "equal":
      return count === 0 && way[0]?.count === 0
        ? "Nothing was accepted yet."
        : "Equal, to the cent.";
    case "under way":
      if (count <= 0) return `Under way for ${formatDuration(under_way_seconds)}.`;
      return (
        <>
          Under way for {formatDuration(under_way_seconds)}: {formatCount(count)} accepted and not
          yet reported, worth {formatMoney(amount)}.
        </>
      );
    case "unknown":
      return (
        <>
          <strong>Not known</strong> whether they match: these numbers are from{" "}
          {formatDuration(looked_seconds_ago ?? 0)} ago, since the stores can't be read.{" "}
          {trouble || "The look is not over yet."}
        </>
      );
    case "broken":
      return (
        <>
          <strong>Broken</strong> for {formatDuration(under_way_seconds)}: accepted and reported
          differ by {formatCount(count)} and {formatMoney(amount)}, and waiting does not explain it.
          Look at the <Link to="/dead-letters">dead letters</Link> and at the processes below.
        </>
      );
  }
}
