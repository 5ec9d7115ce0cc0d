// Signs in, makes a company, reads it back and is refused once, all typed.
import assert from "node:assert/strict";
import { tenantClient, type Problem } from "./client.js";

const { BASE_URL: baseUrl, IDENTIFIER: identifier, PASSWORD: password } = process.env;
assert(baseUrl && identifier && password, "BASE_URL, IDENTIFIER and PASSWORD say where to go and as whom");

const api = tenantClient(baseUrl);

const refused = await api.GET("/account/me");
assert.equal(refused.response.status, 401);
const problem: Problem | undefined = refused.error;
assert.ok(problem?.detail);

const login = await api.POST("/auth/login", { body: { identifier, password } });
assert.ok(login.data?.tokens, "the owner signs in");
api.signInWith(login.data.tokens.access);

const me = await api.GET("/account/me");
assert.equal(me.data?.email, identifier);

const made = await api.POST("/company", { body: { name: "Typed Company" } });
assert.ok(made.data);
const id: number = made.data.id;

const read = await api.GET("/company/{id}", { params: { path: { id } } });
assert.equal(read.data?.name, "Typed Company");

const page = await api.GET("/company", { params: { query: { page_size: 100 } } });
assert.ok(page.data?.results.some((company) => company.id === id));

const wrong = await api.GET("/company/{id}", { params: { path: { id: 999_999_999 } } });
assert.equal(wrong.response.status, 404);
assert.equal(wrong.error?.status, 404);

console.log(`company ${id} of ${me.data?.account_uid}`);
