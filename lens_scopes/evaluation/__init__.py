"""The faithfulness laboratory: attributions put to the test by interventions, over whole sets of passages."""
