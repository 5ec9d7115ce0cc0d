// Sends the token of the link and the password. The token leaves the address bar
// at once, so that it stays in no history.
const token = new URLSearchParams(location.hash.slice(1)).get("token") ?? "";
history.replaceState(null, "", location.pathname);
const invited = location.pathname.endsWith("/invitation");
const form = document.getElementById("form");
const answer = document.getElementById("answer");
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  answer.textContent = "";
  try {
    const response = await fetch(invited ? "/v1/operators/invitations/accept" : "/v1/auth/password/reset", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ token, password: document.getElementById("password").value }),
    });
    if (response.ok) {
      form.hidden = true;
      answer.textContent = invited ? "Your account is made. You can sign in now." : "Your password is set. You can sign in now.";
      return;
    }
    const problem = await response.json();
    answer.textContent = problem.detail;
  } catch {
    answer.textContent = "The password could not be sent. Check the connection and try again.";
  }
});
