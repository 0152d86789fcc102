"""The window: REST API, event stream, sign-in and pages over the inventory. It decides nothing about the fleet and knows no manager."""
