interface Props {
  label: string;
  value: number;
  maximum: number;
}

/** How full something is; the numbers stand beside it. */
export function Meter({ label, value, maximum }: Props) {
  return (
    <meter
      className="meter"
      aria-label={label}
      min={0}
      max={maximum}
      high={maximum * 0.9}
      optimum={0}
      value={value}
    />
  );
}
