// An answer with everything that is laid out: for tests of the page's looks, and for the pictures of the manual.
export const ANSWER = {
  thought: "Let me look at **parity**: if $p^2$ is even, so is $p$.",
  content: "# Why $\\sqrt{2}$ is irrational\n\nSuppose $\\sqrt2 = p/q$ in lowest terms. Then\n\n$$\np^2 = 2q^2 \\quad\\Longrightarrow\\quad "
    + "p = 2r,\\; 4r^2 = 2q^2,\\; q^2 = 2r^2\n$$\n\nso **both** are even, a contradiction.\n\n## In code\n\n```python\n"
    + "from fractions import Fraction\n\ndef approximate(n: int) -> Fraction:\n    \"\"\"The n-th convergent.\"\"\"\n    x = Fraction(1)\n"
    + "    for _ in range(n):\n        x = 1 + 1 / (1 + x)  # 1, 3/2, 7/5, and so on, each closer than the one before it\n    return x\n```\n\n"
    + "| n | convergent | error |\n|--:|:-----------|------:|\n| 1 | 3/2 | 0.086 |\n| 2 | 7/5 | 0.014 |\n\n"
    + "> A quote, with `inline code` and a [link](https://example.org).\n\n1. First\n2. Second\n   - [x] done\n",
};

/** The events of a streamed answer, as the API sends them. */
export function chunks({ thought = "", content = "", finish = "stop", usage = { completion_tokens: 42, total_tokens: 420 } }) {
  const chunk = (delta, reason = null) => ({ choices: [{ index: 0, delta, finish_reason: reason }] });
  const pieces = [chunk({ role: "assistant", content: "" })];
  if (thought) pieces.push(chunk({ reasoning_content: thought }));
  for (const piece of content.match(/[\s\S]{1,40}/g) ?? []) pieces.push(chunk({ content: piece }));
  pieces.push(chunk({}, finish), { choices: [], usage });
  return [...pieces.map((piece) => JSON.stringify(piece)), "[DONE]"].map((data) => `data: ${data}\n\n`);
}
