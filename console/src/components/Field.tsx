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

interface ChoiceProps<T extends string> extends FieldProps {
  choices: readonly T[];
  /** What a choice is called, if that is not what it is. */
  words?: (choice: T) => string;
}

/** One of several, or all of them. */
export function Choice<T extends string>({
  name,
  value,
  choices,
  words = String,
  onChange,
}: ChoiceProps<T>) {
  const id = useId();
  return (
    <div className="field">
      <label htmlFor={id}>{name}</label>
      <select id={id} value={value} onChange={(event) => onChange(event.target.value)}>
        <option value="">all</option>
        {choices.map((choice) => (
          <option key={choice} value={choice}>
            {words(choice)}
          </option>
        ))}
      </select>
    </div>
  );
}
