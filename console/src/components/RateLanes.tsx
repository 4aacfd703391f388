import type { History, StepName } from "../api";
import { formatClock, formatRate } from "../format";
import { TimeChart } from "./TimeChart";

const STEPS: readonly StepName[] = ["accepted", "posted", "stored", "reported"];
const HEIGHT = 76;
const TIMES_HEIGHT = 20;

/** The rate at each step, one lane above the other on one scale: a burst can be seen to pass. */
export function RateLanes({ history }: { history: History }) {
  const maximum = STEPS.flatMap((step) => history[step]).reduce((a, b) => Math.max(a, b), 1);
  return (
    <div className="lanes">
      {STEPS.map((step, index) => {
        const values = history[step];
        const last = index === STEPS.length - 1;
        return (
          <TimeChart
            key={step}
            label={step}
            times={history.seconds}
            values={values}
            maximum={maximum}
            height={last ? HEIGHT + TIMES_HEIGHT : HEIGHT}
            formatValue={formatRate}
            formatTime={(seconds) => formatClock(seconds * 1000)}
            summary={`${formatRate(values.at(-1) ?? 0)} per second, at most ${formatRate(
              values.reduce((a, b) => Math.max(a, b), 0),
            )}`}
            sync="rates"
            hideTimes={!last}
          />
        );
      })}
    </div>
  );
}
