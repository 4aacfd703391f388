import { useEffect, useMemo, useRef, useState, useSyncExternalStore } from "react";
import uPlot from "uplot";

interface Props {
  label: string;
  /** Seconds since 1970, ascending. */
  times: readonly number[];
  /** Null where there is none: the line is broken there. */
  values: readonly (number | null)[];
  /** The top of the scale; that of the values if it is not given. */
  maximum?: number;
  height: number;
  formatValue: (value: number) => string;
  formatTime: (seconds: number) => string;
  /** What to say when nothing is pointed at. */
  summary: string;
  /** Times with a line of their own. */
  marks?: readonly number[];
  /** Charts with the same key share the pointer. */
  sync?: string;
  hideTimes?: boolean;
}

const DIGIT_WIDTH = 6.6;
const TIME_LABEL_WIDTH = 66;
const DARK = window.matchMedia("(prefers-color-scheme: dark)");

/** One series over time, with what it shows as text beside it. */
export function TimeChart(props: Props) {
  const { label, times, values, height, formatValue, formatTime, summary } = props;
  const place = useRef<HTMLDivElement>(null);
  const chart = useRef<uPlot>(null);
  const latest = useRef(props);
  const [pointed, setPointed] = useState<number | null>(null);
  const dark = useDark();
  const data = useMemo<uPlot.AlignedData>(() => [[...times], [...values]], [times, values]);

  useEffect(() => {
    latest.current = props;
  });

  // biome-ignore lint/correctness/useExhaustiveDependencies: colours are read anew for each scheme; data has its own effect
  useEffect(() => {
    const element = place.current;
    if (!element) return;
    const made = new uPlot(optionsFor(element, latest, height, setPointed), [[], []], element);
    chart.current = made;
    made.setData(data);
    const observer = new ResizeObserver(() => {
      made.setSize({ width: element.clientWidth, height });
    });
    observer.observe(element);
    return () => {
      observer.disconnect();
      made.destroy();
      chart.current = null;
    };
  }, [dark, height]);

  useEffect(() => {
    chart.current?.setData(data);
  }, [data]);

  const time = pointed === null ? undefined : times[pointed];
  const value = pointed === null ? undefined : values[pointed];
  const reading =
    time === undefined || value === undefined || value === null
      ? summary
      : `${formatTime(time)}: ${formatValue(value)}`;
  return (
    <figure className="chart">
      <figcaption>
        <span className="chart-name">{label}</span>
        <span className="chart-reading">{reading}</span>
      </figcaption>
      <div ref={place} className="chart-place" role="img" aria-label={`${label}: ${summary}`} />
    </figure>
  );
}

function useDark(): boolean {
  return useSyncExternalStore(
    (listener) => {
      DARK.addEventListener("change", listener);
      return () => DARK.removeEventListener("change", listener);
    },
    () => DARK.matches,
  );
}

function optionsFor(
  element: HTMLElement,
  latest: React.RefObject<Props>,
  height: number,
  onPoint: (index: number | null) => void,
): uPlot.Options {
  const style = getComputedStyle(element);
  const colour = (name: string) => style.getPropertyValue(name).trim();
  const font = `12px ${style.fontFamily}`;
  const axis = {
    stroke: colour("--muted"),
    font,
    ticks: { show: false },
    grid: { stroke: colour("--rule"), width: 1 },
  };
  const { sync, hideTimes } = latest.current;
  return {
    width: element.clientWidth,
    height,
    padding: [6, 2, hideTimes ? 4 : 0, 0],
    legend: { show: false },
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
    cursor: {
      y: false,
      drag: { x: false, y: false },
      points: { size: 7, fill: colour("--accent") },
      ...(sync ? { sync: { key: sync } } : {}),
    },
    scales: {
      x: { time: true },
      y: {
        // From zero, or from below where amounts were given back.
        range: (_, smallest, largest) => [
          Math.min(smallest, 0) * 1.05,
          Math.max(latest.current.maximum ?? largest, 1) * 1.05,
        ],
      },
    },
    axes: [
      {
        ...axis,
        show: !hideTimes,
        grid: { show: false },
        size: 24,
        space: 104,
        values: (chart, splits) =>
          splits.map((seconds) => (fits(chart, seconds) ? latest.current.formatTime(seconds) : "")),
      },
      {
        ...axis,
        size: (_, labels) => widest(labels) * DIGIT_WIDTH + 14,
        space: 26,
        values: (_, splits) => splits.map((value) => latest.current.formatValue(value)),
      },
    ],
    series: [
      {},
      {
        stroke: colour("--accent"),
        fill: colour("--accent-wash"),
        width: 1.5,
        // A day between two gaps is a point: a line needs two.
        points: { show: true, size: 4, filter: (chart, index) => alone(chart, index) },
      },
    ],
    hooks: {
      draw: [(chart) => drawMarks(chart, latest.current.marks ?? [], colour("--alarm"))],
      setCursor: [(chart) => onPoint(chart.cursor.idx ?? null)],
    },
  };
}

/** The indexes of values with none on either side. */
function alone(chart: uPlot, series: number): number[] {
  const values = Array.from<number | null | undefined>(chart.data[series] ?? []);
  return values.flatMap((value, index) =>
    value != null && values[index - 1] == null && values[index + 1] == null ? [index] : [],
  );
}

/** Whether a label in the middle under this time is not cut off at the edge of the chart. */
function fits(chart: uPlot, seconds: number): boolean {
  const x = chart.valToPos(seconds, "x");
  return x + TIME_LABEL_WIDTH / 2 <= chart.bbox.width / window.devicePixelRatio;
}

function widest(labels: readonly string[] | null): number {
  return (labels ?? []).reduce((longest, label) => Math.max(longest, label.length), 4);
}

function drawMarks(chart: uPlot, marks: readonly number[], colour: string): void {
  const { ctx, bbox } = chart;
  ctx.save();
  ctx.strokeStyle = colour;
  ctx.lineWidth = window.devicePixelRatio;
  ctx.setLineDash([3 * window.devicePixelRatio, 3 * window.devicePixelRatio]);
  for (const mark of marks) {
    const x = Math.round(chart.valToPos(mark, "x", true));
    if (x < bbox.left || x > bbox.left + bbox.width) continue;
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
  }
  ctx.restore();
}
