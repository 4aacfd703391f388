/**
 * JSON text with line breaks and indents, or null if it is not JSON.
 *
 * Works on the text: parsing would round ids of 64 bits to what a JavaScript number can hold.
 */
export function indentJson(text: string): string | null {
  try {
    JSON.parse(text);
  } catch {
    return null;
  }
  const tokens = text.match(/"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/g) ?? [];
  let depth = 0;
  let out = "";
  tokens.forEach((token, index) => {
    const next = tokens[index + 1];
    if (token === "{" || token === "[") {
      const empty = next === "}" || next === "]";
      depth += empty ? 0 : 1;
      out += empty ? token : token + lineBreak(depth);
    } else if (token === "}" || token === "]") {
      const previous = tokens[index - 1];
      const empty = previous === "{" || previous === "[";
      depth -= empty ? 0 : 1;
      out += empty ? token : lineBreak(depth) + token;
    } else if (token === ",") {
      out += token + lineBreak(depth);
    } else {
      out += token === ":" ? ": " : token;
    }
  });
  return out;
}

function lineBreak(depth: number): string {
  return `\n${"  ".repeat(depth)}`;
}
