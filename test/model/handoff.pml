/*
 * The hand-off of one service as src/migrate/HANDOFF.md states it, from the moment when the source stands frozen at its
 * barrier: two agents with a journal each, the barriers' own processes, a network that loses messages, agents that are
 * killed between any two steps and started again. Checked by test/unit/migrate/model.test.ts:
 *
 *   oneCopy    never do two copies run
 *   (asserted) what is let go at either side is the newest state: nothing has run at the other since it was saved
 *   someCopy   once the faults are over, one copy runs for ever
 *   yields     once the faults are over, no two copies run, whatever an operator has said
 *
 * Durable: the journals, the source's verdict file, and what runs. Everything else is lost with an agent. Steps are as
 * fine as the writes: each journal record, verdict and act is one. Faults (MAX_FAULTS in all): an agent is killed, a
 * message is lost, a barrier loses patience or is killed, a restore fails. With GONE one node is destroyed for good as
 * well, and an operator resolves on the other, who must be right about it: that is what HANDOFF.md asks of operators.
 * With RESOLVE the operator may be wrong: the other node lives, runs its copy or is about to, and has to yield to the
 * later epoch when it hears of it; and there may be a second word that contradicts the first. Two copies may run until then (no protocol of two nodes can know), but not for ever.
 *
 * With BOOT the source may lose its power: what ran there is gone, and is started by its operator only.
 *
 * Each BROKEN_* is a mistake that the checker has to find, or the model is worth nothing:
 *   BROKEN_PROMOTE   a destination that has waited long enough runs the service
 *   BROKEN_RESUME    a restarted source resumes although its journal says committed
 *   BROKEN_VERDICT   the source believes its journal without asking the barrier
 *   BROKEN_UNFENCED  the barrier does not shut the freezer, so that the death of CRIU lets the source's copy run on
 *   BROKEN_REFUSAL   a destination refuses without writing it down
 *   BROKEN_RERUN     a restarted destination restores again what it had let go
 *   BROKEN_FORGET    a source clears its barrier's verdict away before its journal says what that was (with BOOT)
 *   BROKEN_DISCARD   a destination whose restore has failed gives up though nobody has asked for it
 *   BROKEN_TURN      a destination that runs takes its operator's word back, of which its source may have heard
 *   BROKEN_GRUDGE    a source whose operator chooses the destination after all still has it yield
 *   BROKEN_SILENT    the source tells once, and the destination never asks
 *   BROKEN_EPOCH     an operator's decision takes the epoch that the other side has as well
 *   BROKEN_UNTOLD    an agent that is restarted has forgotten that its operator's decision is to be told
 */
#ifndef MAX_FAULTS
#define MAX_FAULTS 3
#endif

mtype = { RUNS, FROZEN, DEAD };                                    /* the source's copy */
mtype = { NONE, COMMIT, ABORT };                                   /* verdicts, and what is told */
mtype = { J_FROZEN, J_COMMITTED, J_TAKEN_BACK, J_HEALTHY, J_ABORTED, J_STAGING, J_PREPARED, J_RUNNING };
mtype = { PREPARE, PREPARED, ACK, REFUSED, OPEN };
mtype = { DOWN, LOST, START, AWAIT, GIVE_UP, DECIDE, VERDICT, VOID, FENCE, TELL, TOLD, HEARD, TAKE, TOOK, RETOOK, CLEAR, DONE };
mtype = { HELD, REPLY, RELEASE, RELEASED, REFUSE };
mtype = { RESOLVED, CEDING, YIELD, YIELDED, LEAVE };                      /* RESOLVE, either side */

mtype sourceCopy = FROZEN;
mtype sourceVerdict = NONE;
mtype sourceJournal = J_FROZEN;
mtype sourceStep = START;

bool destinationRuns = false;
bool destinationHeld = false;
mtype destinationJournal = J_STAGING;
mtype destinationStep = START;
mtype heard = NONE;          /* what the source answered; the destination's agent has it in memory */

#define E 1                       /* the epoch of the source when the migration began */
byte sourceEpoch = E, destinationEpoch = 0;
bool sourceOwns = true, destinationOwns = false;
byte sourceUntold = 0, destinationUntold = 0; /* the epoch of an operator's decision that the other side has not heard of */
byte words = 0;                   /* of operators */
#define resolved (words > 0)
#define mayResolve (words == 0)
#define mayContradict (words == 1)
bool asked = false;               /* the source waits for what the destination says to its commit */
bool gaveUpUnasked = false;

bool hasRunAtSource = false;      /* since the freeze */
bool hasRunAtDestination = false;
byte faults = 0;

chan order = [1] of { mtype };    /* source to destination: PREPARE, COMMIT */
chan report = [1] of { mtype };   /* its answers: PREPARED, ACK, REFUSED */
chan question = [1] of { mtype }; /* destination to source: what have you decided? */
chan answer = [1] of { mtype };   /* COMMIT, ABORT, OPEN */

#ifdef RESOLVE
chan cedeDestination = [1] of { byte };  /* the source's operator has decided, at this epoch */
chan cedeSource = [1] of { byte };       /* the destination's */
chan cededDestination = [1] of { bool };
chan cededSource = [1] of { bool };
#endif

#define sourceRuns (sourceCopy == RUNS)
#define sourceUp (sourceStep != DOWN && sourceStep != LOST)
#define destinationUp (destinationStep != DOWN && destinationStep != LOST)
#define fault (faults < MAX_FAULTS)

/* The node that was destroyed was the owner, and the other has no complete copy or had been told to discard it. */
#define lostForGood ((sourceStep == LOST && (destinationJournal == J_STAGING || (destinationJournal == J_ABORTED && !gaveUpUnasked))) \
  || (destinationStep == LOST && sourceJournal == J_HEALTHY))

ltl oneCopy { [] !(sourceRuns && destinationRuns) }
ltl yields { <> [] !(sourceRuns && destinationRuns) }
ltl someCopy { <> [] (sourceRuns || destinationRuns || lostForGood) }

/* The barrier inside CRIU, and its supervisor: they outlive the agent and read nothing but the verdict file. */
active proctype SourceBarrier() {
end:
  do
  :: atomic { sourceCopy == FROZEN && sourceVerdict == COMMIT -> sourceCopy = DEAD }
  :: atomic { sourceCopy == FROZEN && sourceVerdict == ABORT -> sourceCopy = RUNS; hasRunAtSource = true }
#ifdef BROKEN_UNFENCED
  :: atomic { sourceCopy == FROZEN && fault -> faults++; sourceCopy = RUNS; hasRunAtSource = true }
  :: atomic { sourceCopy == RUNS && sourceVerdict == COMMIT -> sourceCopy = DEAD }
#endif
  :: atomic { sourceCopy == FROZEN && sourceVerdict == NONE && fault -> faults++; sourceVerdict = ABORT }
  od
}

active proctype SourceAgent() {
end:
  do
  :: atomic { sourceStep == START && nfull(order) -> order ! PREPARE; sourceStep = AWAIT }
  :: atomic { sourceStep == AWAIT && nempty(report) ->
       if
       :: report ? PREPARED -> sourceStep = DECIDE
       :: report ? REFUSED -> sourceStep = GIVE_UP
       :: report ? ACK -> sourceStep = GIVE_UP   /* its operator has decided meanwhile */
       fi }
  :: atomic { sourceStep == AWAIT && empty(report) -> sourceStep = GIVE_UP }   /* cancelled, or waited long enough */
  :: atomic { sourceStep == GIVE_UP ->
       if :: sourceVerdict == NONE -> sourceVerdict = ABORT :: else fi;
       assert(sourceVerdict == ABORT);
       sourceStep = VOID }
#ifdef BROKEN_FORGET
  :: atomic { sourceStep == VOID && sourceCopy != FROZEN -> sourceVerdict = NONE; sourceStep = CLEAR }
  :: atomic { sourceStep == CLEAR -> sourceJournal = J_ABORTED; sourceStep = DONE }
#else
  :: atomic { sourceStep == VOID -> sourceJournal = J_ABORTED; sourceStep = CLEAR }
  :: atomic { sourceStep == CLEAR && sourceCopy != FROZEN -> sourceVerdict = NONE; sourceStep = DONE }
#endif

  :: atomic { sourceStep == DECIDE -> sourceJournal = J_COMMITTED; sourceStep = VERDICT }
  :: atomic { sourceStep == VERDICT ->
       if :: sourceVerdict == NONE -> sourceVerdict = COMMIT :: else fi;
#ifdef BROKEN_VERDICT
       sourceStep = TELL }
#else
       if :: sourceVerdict == COMMIT -> sourceStep = FENCE :: else -> sourceStep = VOID fi }
#endif
  :: atomic { sourceStep == FENCE && sourceCopy == DEAD -> sourceStep = TELL;
       if :: sourceEpoch == E -> sourceEpoch = E + 1; sourceOwns = false :: else fi }
  :: atomic { sourceStep == TELL && empty(report) && nfull(order) -> order ! COMMIT;
#ifdef BROKEN_SILENT
       sourceStep = TOLD
#endif
     }
  :: atomic { (sourceStep == TELL || sourceStep == TOLD) && nempty(report) ->
       if
       :: report ? ACK -> sourceStep = HEARD
       :: report ? REFUSED -> sourceStep = TAKE
       :: report ? PREPARED          /* a late one */
       fi }
  :: atomic { sourceStep == HEARD && sourceUntold == 0 -> sourceJournal = J_HEALTHY; sourceStep = DONE }
#ifdef RESOLVE
  /* Killed between the two records of a resolution: it is told to cede what it has just been told to run. */
  :: atomic { sourceStep == HEARD && sourceUntold != 0 -> sourceStep = CEDING }
  :: atomic { sourceStep == CEDING && sourceUntold == 0 -> sourceStep = TAKE }

  :: atomic { sourceStep == TELL && mayResolve ->
       words++;
#ifdef BROKEN_EPOCH
       sourceUntold = E + 1;
#else
       sourceUntold = E + 2;
#endif
       sourceStep = RESOLVED }
  :: atomic { sourceStep == RESOLVED -> sourceStep = TAKE }
  /* It could not be restored here so far, and its operator chooses the destination after all: that is asked, and runs it. */
  :: atomic { sourceStep == TOOK && sourceCopy == DEAD && sourceUntold != 0 && mayContradict ->
       words++;
#ifndef BROKEN_GRUDGE
       sourceUntold = 0;
#endif
       sourceJournal = J_COMMITTED; sourceStep = LEAVE }
  :: atomic { sourceStep == LEAVE && destinationUp && destinationJournal == J_ABORTED -> sourceStep = TAKE }
  :: atomic { sourceStep == LEAVE && destinationStep == AWAIT -> destinationJournal = J_COMMITTED; destinationStep = RELEASE }
  :: atomic { sourceStep == LEAVE && destinationUp && destinationJournal == J_RUNNING ->
       sourceOwns = false; sourceJournal = J_HEALTHY; sourceStep = DONE }
  :: atomic { (sourceStep == CEDING || sourceStep == DONE) && sourceUntold != 0 && empty(cededDestination) && nfull(cedeDestination) ->
       cedeDestination ! sourceUntold }
  :: atomic { (sourceStep == CEDING || sourceStep == DONE) && nempty(cededDestination) -> cededDestination ? _; sourceUntold = 0 }

  /* The destination's operator has decided. */
  :: atomic { (sourceStep == TELL || sourceStep == TOLD || sourceStep == DONE) && nempty(cedeSource) ->
       byte told;
       cedeSource ? told;
       if
       :: sourceEpoch > told || (sourceEpoch == told && sourceOwns)
       :: else -> sourceEpoch = told; sourceOwns = false; sourceStep = YIELD
       fi }
  :: atomic { sourceStep == YIELD -> sourceVerdict = COMMIT; sourceCopy = DEAD; sourceStep = YIELDED }
  :: atomic { sourceStep == YIELDED -> sourceJournal = J_HEALTHY; sourceUntold = 0; sourceStep = DONE;
       if :: nfull(cededSource) -> cededSource ! true :: full(cededSource) fi }
#endif

  /* The destination has refused for good, or an operator says that it is gone. */
  :: atomic { sourceStep == TAKE -> sourceJournal = J_TAKEN_BACK; sourceStep = TOOK }
  :: atomic { sourceStep == TOOK ->
       if
       :: sourceCopy == DEAD -> assert(!hasRunAtDestination || destinationStep == LOST || resolved); sourceCopy = RUNS
       :: else
       fi;
#ifdef BROKEN_EPOCH
       sourceEpoch = E + 1;
#else
       sourceEpoch = E + 2;
#endif
       sourceOwns = true; sourceStep = RETOOK }
  :: atomic { sourceStep == RETOOK -> sourceJournal = J_ABORTED; sourceStep = DONE }

  :: atomic { sourceStep == DONE && nempty(report) -> report ? _ }

  /* A restart: the journal says what was under way, the barrier whether the journal's commit holds. */
  :: atomic { sourceStep == DOWN ->
       if
       :: sourceJournal == J_FROZEN -> sourceStep = GIVE_UP
#ifdef BROKEN_RESUME
       :: sourceJournal == J_COMMITTED -> sourceCopy = RUNS; sourceStep = VOID
#else
       :: sourceJournal == J_COMMITTED -> sourceStep = VERDICT
#endif
       :: sourceJournal == J_TAKEN_BACK -> sourceStep = TOOK
       :: sourceJournal == J_HEALTHY || sourceJournal == J_ABORTED -> sourceStep = DONE
       fi }
#ifdef GONE
  :: atomic { sourceStep == TELL && destinationStep == LOST -> sourceStep = TAKE }
#endif
  od
}

/* The same agent's answers to its peer. */
active proctype SourceAnswers() {
end:
  do
  :: atomic { sourceUp && nempty(question) && nfull(answer) ->
       question ? _;
       if
       :: sourceJournal == J_FROZEN -> answer ! OPEN
       :: sourceJournal == J_COMMITTED && (sourceStep == TELL || sourceStep == TOLD || sourceStep == HEARD) -> answer ! COMMIT
       :: sourceJournal == J_COMMITTED && !(sourceStep == TELL || sourceStep == TOLD || sourceStep == HEARD) -> answer ! OPEN
       :: sourceJournal == J_HEALTHY -> answer ! COMMIT
       :: sourceJournal == J_TAKEN_BACK || sourceJournal == J_ABORTED -> answer ! ABORT
       fi }
  od
}

active proctype DestinationAgent() {
end:
  do
  :: atomic { destinationStep == START && nempty(order) ->
       if
       :: order ? PREPARE -> destinationHeld = true; destinationStep = HELD
       :: order ? COMMIT -> destinationStep = REFUSE
       fi }
  :: atomic { destinationStep == HELD -> destinationJournal = J_PREPARED; destinationStep = REPLY }
  :: atomic { destinationStep == REPLY -> if :: nfull(report) -> report ! PREPARED :: full(report) fi; destinationStep = AWAIT }

  :: atomic { destinationStep == AWAIT && order ? [COMMIT] -> order ? COMMIT; asked = true; destinationStep = DECIDE }
  :: atomic { destinationStep == RELEASE && !asked && order ? [COMMIT] -> order ? COMMIT; asked = true }
  :: atomic { destinationStep == AWAIT && order ? [PREPARE] -> order ? PREPARE }
  :: atomic { destinationStep == AWAIT && heard == COMMIT -> destinationStep = DECIDE }
  :: atomic { destinationStep == AWAIT && heard == ABORT -> destinationJournal = J_ABORTED; destinationStep = VOID }
  :: atomic { destinationStep == VOID -> destinationHeld = false; destinationStep = DONE }
#ifdef BROKEN_PROMOTE
  :: atomic { destinationStep == AWAIT -> destinationStep = DECIDE }
#endif

  :: atomic { destinationStep == DECIDE -> destinationJournal = J_COMMITTED; destinationStep = RELEASE }
  /* What is held is let go; what was lost is restored from the files first. */
  :: atomic { destinationStep == RELEASE ->
       assert(!hasRunAtSource || sourceStep == LOST || resolved);
       destinationEpoch = (destinationUntold == 0 -> E + 1 : destinationUntold); destinationOwns = true;
       destinationRuns = true; hasRunAtDestination = true; destinationHeld = false; destinationStep = RELEASED }
  /* It can not be run: an answer to a source that asks, which can go on with it; else it is tried again. */
  :: atomic { destinationStep == RELEASE && !destinationRuns && fault -> faults++;
       if
       :: asked -> destinationStep = REFUSE
       :: !asked ->
#ifdef BROKEN_DISCARD
            gaveUpUnasked = true; destinationStep = REFUSE
#else
            skip
#endif
       fi }
#ifdef RESOLVE
  :: atomic { destinationStep == AWAIT && mayResolve ->
       words++;
#ifdef BROKEN_EPOCH
       destinationUntold = E + 1;
#else
       destinationUntold = E + 2;
#endif
       destinationJournal = J_COMMITTED; destinationStep = RELEASE }
  :: atomic { destinationStep == DONE && destinationUntold != 0 && empty(cededSource) && nfull(cedeSource) ->
       cedeSource ! destinationUntold }
  :: atomic { destinationStep == DONE && nempty(cededSource) -> cededSource ? _; destinationUntold = 0 }

  /* It could not be run so far, and its operator chooses the source after all. Once it runs, the source may have yielded. */
  :: atomic { destinationStep == RELEASE && destinationUntold != 0 && !destinationRuns && mayContradict ->
       words++; destinationOwns = false; destinationStep = YIELDED }
#ifdef BROKEN_TURN
  :: atomic { destinationStep == DONE && destinationUntold != 0 && destinationJournal == J_RUNNING && mayContradict ->
       words++; destinationRuns = false; destinationOwns = false; destinationStep = YIELDED }
#endif

  /* The source's operator has decided. */
  :: atomic { (destinationStep == AWAIT || destinationStep == DONE) && nempty(cedeDestination) ->
       byte epoch;
       cedeDestination ? epoch;
       if
       :: destinationEpoch > epoch || (destinationEpoch == epoch && destinationOwns)
       :: else -> destinationEpoch = epoch; destinationOwns = false; destinationStep = YIELD
       fi }
  :: atomic { destinationStep == YIELD -> destinationRuns = false; destinationHeld = false; destinationStep = YIELDED }
  :: atomic { destinationStep == YIELDED -> destinationJournal = J_ABORTED; destinationUntold = 0; destinationStep = DONE;
       if :: nfull(cededDestination) -> cededDestination ! true :: full(cededDestination) fi }
#endif
  :: atomic { destinationStep == RELEASED -> destinationJournal = J_RUNNING; asked = false; destinationStep = DONE;
       if :: nfull(report) -> report ! ACK :: full(report) fi }
#ifdef BROKEN_REFUSAL
  :: atomic { destinationStep == REFUSE -> destinationHeld = false; destinationStep = AWAIT;
       destinationJournal = J_PREPARED;
#else
  :: atomic { destinationStep == REFUSE -> destinationJournal = J_ABORTED; destinationHeld = false; destinationUntold = 0;
       asked = false; destinationStep = DONE;
#endif
       if :: nfull(report) -> report ! REFUSED :: full(report) fi }

  :: atomic { destinationStep == DONE && nempty(order) && nfull(report) -> order ? _;
       if
       :: destinationJournal == J_RUNNING -> report ! ACK
       :: destinationJournal == J_ABORTED -> report ! REFUSED
       fi }

  /* A restart: what was held is ended, its files stay; what was let go runs on. */
  :: atomic { destinationStep == DOWN ->
       destinationHeld = false; heard = NONE; asked = false;
       if
       :: destinationJournal == J_STAGING -> destinationJournal = J_ABORTED; destinationStep = DONE
       :: destinationJournal == J_PREPARED -> destinationStep = AWAIT
#ifdef BROKEN_RERUN
       :: destinationJournal == J_COMMITTED -> assert(!destinationRuns); destinationStep = RELEASE
#else
       :: destinationJournal == J_COMMITTED && destinationRuns -> destinationStep = RELEASED
       :: destinationJournal == J_COMMITTED && !destinationRuns -> destinationStep = RELEASE
#endif
       :: destinationJournal == J_RUNNING || destinationJournal == J_ABORTED -> destinationStep = DONE
       fi }
#ifdef GONE
  :: atomic { destinationStep == AWAIT && sourceStep == LOST -> destinationStep = DECIDE }
#endif
  od
}

/* The same agent's questions while it holds a copy and hears nothing. */
active proctype DestinationAsks() {
end:
  do
#ifndef BROKEN_SILENT
  :: atomic { destinationStep == AWAIT && heard == NONE && empty(question) && empty(answer) -> question ! OPEN }
#endif
  :: atomic { destinationUp && nempty(answer) ->
       if
       :: answer ? COMMIT -> heard = COMMIT
       :: answer ? ABORT -> heard = ABORT
       :: answer ? OPEN
       fi }
  od
}

/* Nothing ever stands still for want of a step, so that a hand-off that is stuck counts as one that goes on so for ever. */
bool tick = false;
active proctype Clock() {
  do :: tick = !tick od
}

active proctype Faults() {
end:
  do
  :: atomic { fault && sourceUp -> faults++; sourceStep = DOWN;
#ifdef RESOLVE
       /* Its connection goes with it: an old acknowledgement says nothing any more once a copy may have to yield. */
       if :: nempty(report) -> report ? _ :: empty(report) fi;
#endif
#ifdef BROKEN_UNTOLD
       sourceUntold = 0
#endif
     }
#ifdef BOOT
  :: atomic { fault && sourceUp -> faults++; sourceStep = DOWN; sourceCopy = DEAD }
#endif
  :: atomic { fault && destinationUp -> faults++; destinationStep = DOWN; heard = NONE;
#ifdef BROKEN_UNTOLD
       destinationUntold = 0
#endif
     }
  :: atomic { fault && destinationHeld -> faults++; destinationHeld = false }
  :: atomic { fault && nempty(order) -> faults++; order ? _ }
  :: atomic { fault && nempty(report) -> faults++; report ? _ }
  :: atomic { fault && nempty(question) -> faults++; question ? _ }
  :: atomic { fault && nempty(answer) -> faults++; answer ? _ }
#ifdef RESOLVE
  :: atomic { fault && nempty(cedeDestination) -> faults++; cedeDestination ? _ }
  :: atomic { fault && nempty(cedeSource) -> faults++; cedeSource ? _ }
  :: atomic { fault && nempty(cededDestination) -> faults++; cededDestination ? _ }
  :: atomic { fault && nempty(cededSource) -> faults++; cededSource ? _ }
#endif
#ifdef GONE
  :: atomic { fault && sourceStep != LOST && destinationStep != LOST -> faults++;
       sourceStep = LOST; sourceCopy = DEAD }
  :: atomic { fault && sourceStep != LOST && destinationStep != LOST -> faults++;
       destinationStep = LOST; destinationRuns = false; destinationHeld = false }
#endif
  od
}
