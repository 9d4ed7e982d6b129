// A reader of ustar archives (with GNU and pax long names) for the few files that set-up unpacks.

const BLOCK = 512;

/**
 * The regular files of an archive. Throws on a bad checksum or a file that is cut short.
 * @param {Buffer} archive
 * @returns {{ name: string, mode: number, data: Buffer }[]}
 */
export function readTar(archive) {
  const files = [];
  let longName;
  for (let at = 0; at + BLOCK <= archive.length;) {
    const header = archive.subarray(at, at + BLOCK);
    if (header.every((byte) => byte === 0)) return files;
    checkSum(header, at);
    const size = octal(header, 124, 12);
    const data = archive.subarray(at + BLOCK, at + BLOCK + size);
    if (data.length < size) throw new Error('the archive is cut short');
    at += BLOCK + Math.ceil(size / BLOCK) * BLOCK;

    const type = String.fromCharCode(header[156]);
    if (type === 'L') longName = text(data, 0, size);
    else if (type === 'x') longName = paxPath(data.toString('utf8')) ?? longName;
    else {
      const prefix = text(header, 257, 5) === 'ustar' ? text(header, 345, 155) : '';
      const short = text(header, 0, 100);
      const name = longName ?? (prefix ? `${prefix}/${short}` : short);
      longName = undefined;
      if (type === '0' || type === '\0') files.push({ name, mode: octal(header, 100, 8), data });
    }
  }
  throw new Error('the archive is cut short');
}

function checkSum(header, at) {
  let sum = 0;
  for (let i = 0; i < BLOCK; i++) sum += i >= 148 && i < 156 ? 32 : header[i];
  if (sum !== octal(header, 148, 8)) throw new Error(`no tar header at byte ${at}`);
}

function text(bytes, offset, length) {
  const field = bytes.subarray(offset, offset + length);
  const end = field.indexOf(0);
  return field.toString('utf8', 0, end < 0 ? field.length : end);
}

function octal(bytes, offset, length) {
  return Number.parseInt(text(bytes, offset, length).trim() || '0', 8);
}

// A pax record is "<length> <key>=<value>\n".
function paxPath(records) {
  return /(?:^|\n)\d+ path=([^\n]*)\n/.exec(records)?.[1];
}
