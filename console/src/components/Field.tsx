import { useId } from "react";

interface FieldProps {
  name: string;
  value: string;
  onChange: (value: string) => void;
}

/** A line to write into, with its name above it. */
export function Field({ name, value, onChange, type = "text" }: FieldProps & { type?: string }) {
  const id = useId();
  return (
    <div className="field">
      <label htmlFor={id}>{name}</label>
      <input
        id={id}
        type={type}
        value={value}
        onChange={(event) => onChange(event.target.value)}
        autoComplete="off"
        autoCapitalize="off"
        spellCheck={false}
      />
    </div>
  );
}

/** One of several, or all of them. */
export function Choice({
  name,
  value,
  choices,
  onChange,
}: FieldProps & { choices: readonly string[] }) {
  const id = useId();
  return (
    <div className="field">
      <label htmlFor={id}>{name}</label>
      <select id={id} value={value} onChange={(event) => onChange(event.target.value)}>
        <option value="">all</option>
        {choices.map((choice) => (
          <option key={choice}>{choice}</option>
        ))}
      </select>
    </div>
  );
}
