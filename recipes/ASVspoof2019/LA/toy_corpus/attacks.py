"""The toy corpus's attacks: signal processing that leaves traces.

They bear the ids of ASVspoof2019 LA, so that protocols, folds over attacks
and break-downs by attack work as on the real corpus, and two attacks of the
evaluation set are known from training there too. They are not the attacks of
ASVspoof2019 LA. Each is band-limited afterwards.

====  =================  =================================================
id    in                 what is done to a clean utterance
====  =================  =================================================
A01   train, dev         48 mel bands, phases by 10 Griffin-Lim steps
A02   train, dev         all-pole vocoder, pulses or noise
A03   train, dev         phases randomised by up to 0.7 pi
A04   train, dev         units of 40 to 100 ms, misplaced and joined
A05   train, dev         cepstral envelope stretched by 15 to 35 %
A06   train, dev         residual through all-pole filters held for 48 ms
A07   eval               40 strongest partials of every frame, no noise
A08   eval               8 kHz and back by repeating every sample
A09   eval               minimum-phase cepstral vocoder, smoothed in time
A10   eval               smoothed magnitudes, 20 Griffin-Lim steps
A11   eval               frames held for 32 ms, phases locked to the bins
A12   eval               mu-law quantisation to 5 bits
A13   eval               plain overlap-add time stretch, there and back
A14   eval               all-pole vocoder, pitch in steps of 2 semitones
A15   eval               channel vocoder of 20 mel bands
A16   eval               the same as A04
A17   eval               envelope averaged over 72 ms and flattened
A18   eval               formants moved by a bilinear map
A19   eval               the same as A06
====  =================  =================================================
"""

from toy_corpus import conversions, vocoders

ATTACKS = {
    "A01": vocoders.mel_griffin_lim,
    "A02": vocoders.pulse_noise_lpc,
    "A03": conversions.randomise_phase,
    "A04": conversions.concatenate_units,
    "A05": conversions.warp_envelope,
    "A06": conversions.hold_envelope,
    "A07": vocoders.sinusoidal_model,
    "A08": conversions.repeat_samples,
    "A09": vocoders.cepstral_vocoder,
    "A10": vocoders.smoothed_griffin_lim,
    "A11": conversions.bin_locked_phase,
    "A12": conversions.coarse_mu_law,
    "A13": conversions.stretch_and_back,
    "A14": vocoders.quantised_pitch_lpc,
    "A15": vocoders.channel_vocoder,
    "A16": conversions.concatenate_units,
    "A17": conversions.smooth_trajectories,
    "A18": conversions.bilinear_warp,
    "A19": conversions.hold_envelope,
}
TRAINING_ATTACKS = tuple(ATTACKS)[:6]
EVALUATION_ATTACKS = tuple(ATTACKS)[6:]
