// Sends the token of the link and the new password. The token leaves the
// address bar at once, so that it stays in no history.
const token = new URLSearchParams(location.search).get("token") ?? "";
history.replaceState(null, "", location.pathname);
const form = document.getElementById("form");
const answer = document.getElementById("answer");
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  answer.textContent = "";
  try {
    const response = await fetch("/auth/password/reset", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ token, password: document.getElementById("password").value }),
    });
    if (response.ok) {
      form.hidden = true;
      answer.textContent = "Your password is set. You can sign in now.";
      return;
    }
    const problem = await response.json();
    answer.textContent = problem.errors?.[0]?.message ?? problem.detail;
  } catch {
    answer.textContent = "The password could not be sent. Check the connection and try again.";
  }
});
