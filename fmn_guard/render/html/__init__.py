"""report.html: which pictures it shows, where the marks of its charts lie, and the page itself."""
