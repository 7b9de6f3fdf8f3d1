// JSON that keeps every digit: a number that a float cannot hold is kept as it was written.

/** A number that a float cannot hold, as its text. */
export class Exact {
  /** @param {string} text */
  constructor(text) {
    this.text = text;
  }
  toString() {
    return this.text;
  }
  toJSON() {
    const raw = /** @type {any} */ (JSON).rawJSON;
    return raw ? raw(this.text) : Number(this.text);
  }
}

/**
 * Does a float hold this number to its last digit?
 * @param {string} source
 */
function survives(source) {
  const plain = (/** @type {string} */ text) => {
    const [mantissa = "", exponent = "0"] = text.toLowerCase().split("e");
    const [whole = "", fraction = ""] = mantissa.replace("-", "").split(".");
    const digits = whole + fraction;
    const kept = digits.replace(/0+$/, "");
    const shift = Number(exponent) - fraction.length + (digits.length - kept.length);
    const bare = kept.replace(/^0+/, "");
    return bare === "" ? "0" : `${bare}e${shift}`;
  };
  return plain(source) === plain(String(Number(source)));
}

/**
 * @param {string} text
 * @returns {any}
 */
export function parse(text) {
  return JSON.parse(text, /** @type {any} */ (function (/** @type {string} */ _key, /** @type {any} */ value, /** @type {{source?: string}} */ context) {
    if (typeof value === "number" && context && context.source !== undefined && !survives(context.source)) {
      return new Exact(context.source);
    }
    return value;
  }));
}

/**
 * JSON for reading, with its digits as they came.
 * @param {any} value
 * @returns {string}
 */
export function pretty(value) {
  return JSON.stringify(value, null, 2) ?? "";
}

/**
 * What somebody wrote as JSON.
 * @param {string} text
 * @param {string} what what it is, for the fault
 */
export function jsonOf(text, what) {
  try {
    return parse(text);
  } catch (error) {
    throw new Error(`${what} is not JSON: ${error instanceof Error ? error.message : error}`);
  }
}
