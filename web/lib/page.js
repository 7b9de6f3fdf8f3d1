// What screens are made of, by one door; each file says what it has.
export * from "./api.js";
export * from "./format.js";
export * from "./json.js";
export * from "./keyboard.js";
export * from "./load.js";
export * from "./parts.js";
export * from "./router.js";
export * from "./session.js";
export * from "./table.js";
export * from "./toast.js";
export * from "./ui.js";
