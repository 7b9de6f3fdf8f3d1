// Buckets of time as the API names them: what they are called, when they begin in UTC, and which are not over yet.

/** How far a zone's clocks are ahead of UTC at a moment, in milliseconds. @param {number} at @param {string} zone */
function ahead(at, zone) {
  const parts = new Intl.DateTimeFormat("en-US", { timeZone: zone, hourCycle: "h23", year: "numeric", month: "numeric", day: "numeric", hour: "numeric", minute: "numeric", second: "numeric" }).formatToParts(at);
  const of = (/** @type {string} */ type) => Number(parts.find((part) => part.type === type)?.value);
  return Date.UTC(of("year"), of("month") - 1, of("day"), of("hour"), of("minute"), of("second")) - Math.floor(at / 1000) * 1000;
}

/**
 * The moment at which a bucket begins: of a date the first moment of the day by the zone's clocks.
 * @param {string} day as the API names it: a date, or a time with its offset
 * @param {string} zone
 */
export function begins(day, zone) {
  const date = /^(\d{4})-(\d\d)-(\d\d)$/.exec(day);
  if (!date) return Date.parse(day);
  const local = Date.UTC(Number(date[1]), Number(date[2]) - 1, Number(date[3]));
  try {
    const first = local - ahead(local, zone);
    return local - ahead(first, zone);
  } catch {
    return local;
  }
}

/** @type {Record<string, Intl.DateTimeFormatOptions>} */
const FORMS = {
  minute: { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" },
  hour: { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" },
  day: { month: "short", day: "numeric", year: "numeric" },
  week: { month: "short", day: "numeric", year: "numeric" },
  month: { month: "short", year: "numeric" },
};

/** @type {Map<string, Intl.DateTimeFormat>} */
const formats = new Map();

/** @param {string} interval @param {string} zone */
function format(interval, zone) {
  const key = `${interval} ${zone}`;
  const known = formats.get(key);
  if (known) return known;
  const made = new Intl.DateTimeFormat(undefined, { ...(FORMS[interval] ?? FORMS.day), timeZone: zone });
  formats.set(key, made);
  return made;
}

/**
 * What a bucket is called here.
 * @param {string} day
 * @param {string} interval
 * @param {string} zone
 */
export function bucketName(day, interval, zone) {
  const isDate = day.length === 10;
  const at = isDate ? Date.parse(`${day}T00:00:00Z`) : Date.parse(day);
  if (Number.isNaN(at)) return day;
  return format(interval, isDate ? "UTC" : zone).format(at);
}

/** When a bucket begins, in UTC, for whoever hovers over its name. @param {string} day @param {string} zone */
export function utc(day, zone) {
  const at = begins(day, zone);
  return Number.isNaN(at) ? day : `from ${new Date(at).toISOString()}`;
}

/**
 * How many buckets at the end are not over, or may still miss events.
 * @param {string[]} days
 * @param {{timezone?: string, date_to?: string, complete_to?: string | null}} meta
 * @param {number} now
 */
export function unfinished(days, meta, now = Date.now()) {
  const until = Math.min(now, meta.complete_to ? Date.parse(meta.complete_to) : now);
  const zone = meta.timezone ?? "UTC";
  let count = 0;
  for (let index = days.length - 1; index >= 0; index--) {
    const next = days[index + 1];
    const end = next === undefined ? Date.parse(meta.date_to ?? "") : begins(next, zone);
    if (!(end > until)) break;
    count++;
  }
  return count;
}
