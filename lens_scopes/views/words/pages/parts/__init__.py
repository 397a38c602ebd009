"""What several kinds of page share: blocks, two prompts token by token, predicted against actual changes."""
