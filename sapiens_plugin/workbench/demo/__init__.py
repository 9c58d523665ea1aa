"""The quickstart's data: drawn people, and stand-ins for published weights."""
