/** Distinct on white and on near-black, and to the colour-blind (after Okabe and Ito 2008). */
export const palette = [
  ...['#0072b2', '#e69f00', '#009e73', '#cc79a7', '#d55e00', '#56b4e9', '#b8a800', '#8c8c8c'],
] as const;

export interface Box {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
}

export function meet(a: Box, b: Box): boolean {
  return a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height;
}

export function escapeXml(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('"', '&quot;');
}

/** A coordinate: a tenth of a pixel is enough. */
export function px(value: number): string {
  return String(Number(value.toFixed(1)));
}

/** A self-contained picture that is readable on light and dark pages; `style` goes behind the rules for text. */
export function svgDocument(
  size: { readonly width: number; readonly height: number },
  { title, style = '', body }: { title: string; style?: string; body: readonly string[] },
): string {
  const { width, height } = size;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${px(width)} ${px(height)}" role="img" aria-label="${escapeXml(title)}">
<style>text{font:11px system-ui,sans-serif;fill:#333}.title{font-size:14px;font-weight:600}.end{text-anchor:end}.mid{text-anchor:middle}.grid{stroke:#8884}.line{stroke:#333;fill:none}.bg{fill:#fff}${style}@media(prefers-color-scheme:dark){text{fill:#ccc}.line{stroke:#ccc}.bg{fill:#161616}}</style>
<rect class="bg" width="${px(width)}" height="${px(height)}"/>
${body.join('\n')}
</svg>
`;
}
