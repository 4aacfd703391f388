const WIDTH = 240;
const HEIGHT = 120;
const LINES = 18;
const CYCLES = 3;

/** The engraver's pattern of a cheque: one wave, drawn again and again with its phase shifted. */
function wave(line: number): string {
  const phase = (line / LINES) * Math.PI * 2;
  const points: string[] = [];
  for (let x = 0; x <= WIDTH; x += 3) {
    const angle = (x / WIDTH) * Math.PI * 2 * CYCLES;
    const envelope = 0.62 + 0.38 * Math.cos(angle * 2);
    const y = (HEIGHT / 2) * (1 + 0.92 * envelope * Math.sin(angle + phase));
    points.push(`${x} ${y.toFixed(1)}`);
  }
  return `M${points.join("L")}`;
}

const PATHS = Array.from({ length: LINES }, (_, line) => wave(line));

export function Guilloche() {
  return (
    <svg
      className="guilloche"
      viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
      preserveAspectRatio="none"
      aria-hidden="true"
      focusable="false"
    >
      {PATHS.map((path) => (
        <path key={path} d={path} />
      ))}
    </svg>
  );
}
