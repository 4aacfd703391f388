import { type ReactNode, useId, useLayoutEffect, useRef } from "react";

interface Props {
  title: string;
  action: string;
  children: ReactNode;
  /** Whether something is still missing. */
  disabled?: boolean;
  onConfirm: () => void;
  onCancel: () => void;
}

/** Asks before something happens that can't be taken back; Escape is no. */
export function ConfirmDialog({
  title,
  action,
  children,
  disabled = false,
  onConfirm,
  onCancel,
}: Props) {
  const dialog = useRef<HTMLDialogElement>(null);
  const id = useId();
  // Closed while it is still in the document, so that the browser gives the focus back.
  useLayoutEffect(() => {
    const element = dialog.current;
    element?.showModal();
    return () => element?.close();
  }, []);
  return (
    <dialog
      ref={dialog}
      aria-labelledby={id}
      onCancel={(event) => {
        event.preventDefault();
        onCancel();
      }}
    >
      <h2 id={id}>{title}</h2>
      {children}
      <div className="dialog-buttons">
        <button type="button" onClick={onCancel}>
          Cancel
        </button>
        <button type="button" className="primary" disabled={disabled} onClick={onConfirm}>
          {action}
        </button>
      </div>
    </dialog>
  );
}
