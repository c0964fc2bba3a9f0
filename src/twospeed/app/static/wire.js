// Masks as they travel; the server's half is app/wire.py.

export const GIVEN = 0, TRACKED = 1, EDITED = 2, STALE = 16;

/** Parse one mask from an ArrayBuffer. */
export function parse(buffer, offset = 0, length = buffer.byteLength - offset) {
  const view = new DataView(buffer, offset, length);
  if (view.getUint8(0) !== 1) throw new Error("a mask of another version");
  const objects = view.getUint16(2, true), n = view.getUint32(16, true);
  const begin = 24 + 8 * objects;
  const confidence = new Map();
  for (let k = 0; k < objects; k++) {
    confidence.set(view.getUint16(24 + 8 * k, true), view.getFloat32(28 + 8 * k, true));
  }
  return {
    source: view.getUint8(1) & 15,
    stale: (view.getUint8(1) & STALE) !== 0,
    frame: view.getUint32(4, true),
    rev: view.getUint32(8, true),
    height: view.getUint16(12, true),
    width: view.getUint16(14, true),
    confidence,
    values: new Uint8Array(buffer, offset + begin, n),
    lengths: new Uint8Array(buffer, offset + begin + n, length - begin - n),
  };
}

/** Parse masks that follow each other, each after its length. */
export function parseMany(buffer) {
  const view = new DataView(buffer), masks = [];
  for (let at = 0; at < buffer.byteLength;) {
    const length = view.getUint32(at, true);
    masks.push(parse(buffer, at + 4, length));
    at += 4 + length;
  }
  return masks;
}

/** Labels of a mask: Uint8Array (height * width). */
export function labelsOf(mask) {
  const labels = new Uint8Array(mask.height * mask.width);
  const { values, lengths } = mask;
  let at = 0, byte = 0;
  for (let run = 0; run < values.length; run++) {
    let length = 0, shift = 0, part;
    do {
      part = lengths[byte++];
      length |= (part & 127) << shift;
      shift += 7;
    } while (part & 128);
    if (values[run]) labels.fill(values[run], at, at + length);
    at += length;
  }
  if (at !== labels.length) throw new Error("a mask whose runs do not fill it");
  return labels;
}

/** Encode labels as a mask without confidence. */
export function encode(labels, height, width, frame) {
  const values = [], lengths = [];
  for (let at = 0; at < labels.length;) {
    const value = labels[at];
    let end = at + 1;
    while (end < labels.length && labels[end] === value) end++;
    values.push(value);
    for (let rest = end - at; ;) {
      const part = rest & 127;
      rest >>>= 7;
      lengths.push(rest ? part | 128 : part);
      if (!rest) break;
    }
    at = end;
  }
  const data = new Uint8Array(24 + values.length + lengths.length), view = new DataView(data.buffer);
  view.setUint8(0, 1);
  view.setUint8(1, EDITED);
  view.setUint32(4, frame, true);
  view.setUint16(12, height, true);
  view.setUint16(14, width, true);
  view.setUint32(16, values.length, true);
  data.set(values, 24);
  data.set(lengths, 24 + values.length);
  return data;
}
