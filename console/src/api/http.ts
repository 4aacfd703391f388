// How the server is asked, and how what it refuses becomes an error.

/** The server answered, but not with what was asked for. */
export class ApiError extends Error {
  readonly status: number;
  readonly detail: string;

  constructor(status: number, title: string, detail: string) {
    super(title);
    this.name = "ApiError";
    this.status = status;
    this.detail = detail;
  }
}

/** What went wrong, in a sentence for people. */
export function saidBy(error: Error): string {
  if (!(error instanceof ApiError)) return "The server did not answer.";
  return error.detail ? `${error.message}: ${error.detail}` : `${error.message}.`;
}

/** Longer than any answer takes, shorter than a reader's patience. */
const TIMEOUT_MS = 8_000;

export async function get<T>(path: string, signal: AbortSignal): Promise<T> {
  const answer = await send(path, { signal });
  return (await answer.json()) as T;
}

export function act(path: string, body: object): Promise<Response> {
  return send(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
}

export async function send(path: string, request: RequestInit): Promise<Response> {
  const timeout = AbortSignal.timeout(TIMEOUT_MS);
  const signal = request.signal ? AbortSignal.any([request.signal, timeout]) : timeout;
  const answer = await fetch(path, { ...request, signal, credentials: "same-origin" });
  if (!answer.ok) throw await problem(answer);
  return answer;
}

async function problem(answer: Response): Promise<ApiError> {
  let title = `The server answered ${answer.status}`;
  let detail = "";
  try {
    const body: unknown = await answer.json();
    if (typeof body === "object" && body !== null) {
      if ("title" in body && typeof body.title === "string") title = body.title;
      if ("detail" in body && typeof body.detail === "string") detail = body.detail;
    }
  } catch {
    // No problem document: the status says it all.
  }
  return new ApiError(answer.status, title, detail);
}
