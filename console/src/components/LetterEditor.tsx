import { type FormEvent, useEffect, useId, useRef, useState } from "react";

interface Props {
  initial: string;
  /** Why the server refused the last try; empty if it did not. */
  error: string;
  pending: boolean;
  onSave: (value: string) => void;
  onCancel: () => void;
}

/** A replacement for a letter's value; the server checks it against the type of the topic. */
export function LetterEditor({ initial, error, pending, onSave, onCancel }: Props) {
  const [text, setText] = useState(initial);
  const area = useRef<HTMLTextAreaElement>(null);
  const ids = { area: useId(), error: useId() };
  useEffect(() => area.current?.focus(), []);
  const save = (event: FormEvent) => {
    event.preventDefault();
    onSave(text);
  };
  return (
    <form className="letter-editor" onSubmit={save}>
      <label htmlFor={ids.area}>Replacement</label>
      <textarea
        id={ids.area}
        ref={area}
        rows={Math.min(Math.max(text.split("\n").length, 4), 24)}
        value={text}
        spellCheck={false}
        aria-invalid={error !== ""}
        aria-describedby={error ? ids.error : undefined}
        onChange={(event) => setText(event.target.value)}
        onKeyDown={(event) => event.key === "Escape" && onCancel()}
      />
      {error && (
        <p id={ids.error} role="alert" className="error-line">
          {error}
        </p>
      )}
      <div className="dialog-buttons">
        <button type="button" onClick={onCancel}>
          Cancel
        </button>
        <button type="submit" className="primary" disabled={pending}>
          Check and save
        </button>
      </div>
    </form>
  );
}
